"""The attention backends: each module here is one, named after its file, and holds a `BACKEND`."""
