"""The mask policies of ReCoT: each module here is one, named after its file, with a `POLICY`."""
