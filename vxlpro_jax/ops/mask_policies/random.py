"""Hides tokens at random, whatever they show."""

from vxlpro_jax.ops.token_masking import Policy, equal_scores

POLICY = Policy(equal_scores)
