"""Leaves out of a data set what teaches little, by stated rules; `python -m vxlpro_jax.prune`.

The original's procedure is not public; every rule, number and reason here is our own.
"""
