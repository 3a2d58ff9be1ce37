"""Reads and writes parameters on disk as plain nested dicts of arrays."""
