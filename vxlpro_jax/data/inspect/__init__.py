"""Describes batches in text and pictures, for `python -m vxlpro_jax.inspect_data`."""
