"""The configuration of models and runs: its schema, and how files and flags are read into it."""
