"""The embedded data set: synthetic clips with questions, drawn and encoded on demand."""
