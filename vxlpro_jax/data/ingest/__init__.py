"""Converts TFRecord shards to ArrayRecord shards; nothing in this package imports JAX."""
