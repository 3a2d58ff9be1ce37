"""What batches hold, in words and as pictures: `python -m vxlpro_jax.inspect_data`."""
