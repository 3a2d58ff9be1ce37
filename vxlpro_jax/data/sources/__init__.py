"""Records: where they are stored, how each format is read, and how data sets are mixed."""
