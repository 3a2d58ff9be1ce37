"""Converts TFRecord shards to ArrayRecord; nothing in this folder imports JAX."""
