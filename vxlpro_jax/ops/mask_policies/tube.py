"""Hides places at random, each in all frames of the clip."""

from vxlpro_jax.ops.token_masking import Policy, equal_scores

POLICY = Policy(equal_scores, hides_tubes=True)
