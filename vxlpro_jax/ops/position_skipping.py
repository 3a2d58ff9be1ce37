"""Position skipping: a short video takes the places of pieces of a long one.

So a model meets in training the positions of videos that are longer than those it is trained on
(after PoSE, https://arxiv.org/abs/2309.10400).

Shapes: `B` rows, `G` groups of a row, `S` samples of a row.
"""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops import segments as seg


def draw_skips(
    key: jax.Array, group_segments: jax.Array, *, num_segments: int, longest: int
) -> jax.Array:
    """How many groups of a longer video are left out before each group of a sample.

    Every other sample, at random, stays as it is. Else the length of that video is drawn from the
    sample's own to `longest` groups, each power of two as likely as the next. The sample has its
    first group, its last, and others anywhere between these.

    Args:
        key: PRNG key.
        group_segments: int32 [B, G], sample of each group; 0 in padding.
        num_segments: S.
        longest: groups.

    Returns:
        int32 [B, G], not falling within a sample; 0 in padding.
    """
    length_key, place_key = jax.random.split(key)
    member = seg.one_hot(group_segments, num_segments=num_segments)
    groups = jnp.maximum(member.sum(1), 1)
    stretch = jnp.maximum(longest / groups, 1)
    # Below zero, which is half of the samples, nothing is skipped.
    exponent = jax.random.uniform(length_key, groups.shape, minval=-1.0)
    lengths = groups * stretch ** jnp.maximum(exponent, 0)
    # Gaps between uniform draws are shares of exponential ones: sorted without a sort.
    steps = jax.random.exponential(place_key, group_segments.shape)
    steps = jnp.where(seg.index_in_segment(group_segments) == 0, 0, steps)
    steps = jnp.where(member, steps[..., None], 0)
    shares = jnp.cumsum(steps, 1) / jnp.maximum(steps.sum(1), jnp.finfo(steps.dtype).tiny)[:, None]
    shares = jax.lax.cummax(shares, axis=1)  # Sums in parallel may fall by their rounding.
    skipped = jnp.floor(shares * (lengths - groups)[:, None])
    return jnp.where(member, skipped, 0).sum(-1).astype(jnp.int32)
