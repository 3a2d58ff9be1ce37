"""Drops samples that teach little from a data set, by stated rules: `python -m vxlpro_jax.prune`.

The original's procedure is not public; every rule, limit and reason here is our own.
"""
