"""Drops samples that teach little from a data set, by explicit rules: `python -m vxlpro_jax.prune`.

The original procedure is not public; every rule, limit and reason here is our own.
"""
