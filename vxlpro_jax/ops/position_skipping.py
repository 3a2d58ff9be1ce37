"""Position skipping: a short video is given positions from pieces of a longer one.

Training thereby covers positions beyond the length of its own videos (PoSE,
https://arxiv.org/abs/2309.10400).

Shapes: `B` rows, `G` groups of a row, `S` samples of a row.
"""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops import segments as seg


def draw_skips(
    key: jax.Array, group_segments: jax.Array, *, num_segments: int, longest: int
) -> jax.Array:
    """Draws the number of groups of a longer video to skip before each group of a sample.

    With probability one half a sample keeps its own positions. Otherwise the length of the longer
    video is drawn between the sample's own and `longest` groups, log-uniformly. The sample keeps
    the first and the last group of that video, and its other groups lie anywhere between them.

    Args:
        key: PRNG key.
        group_segments: int32 [B, G], sample of each group; 0 in padding.
        num_segments: number of samples S of a row.
        longest: largest length, in groups.

    Returns:
        int32 [B, G], non-decreasing within a sample; 0 in padding.
    """
    length_key, place_key = jax.random.split(key)
    member = seg.one_hot(group_segments, num_segments=num_segments)
    groups = jnp.maximum(member.sum(1), 1)
    stretch = jnp.maximum(longest / groups, 1)
    # Nothing is skipped in the half of the samples whose exponent is below zero.
    exponent = jax.random.uniform(length_key, groups.shape, minval=-1.0)
    lengths = groups * stretch ** jnp.maximum(exponent, 0)
    # Gaps between sorted uniform draws are shares of exponential draws, which need no sort.
    steps = jax.random.exponential(place_key, group_segments.shape)
    steps = jnp.where(seg.index_in_segment(group_segments) == 0, 0, steps)
    steps = jnp.where(member, steps[..., None], 0)
    shares = jnp.cumsum(steps, 1) / jnp.maximum(steps.sum(1), jnp.finfo(steps.dtype).tiny)[:, None]
    shares = jax.lax.cummax(shares, axis=1)  # Parallel sums may fall by rounding.
    skipped = jnp.floor(shares * (lengths - groups)[:, None])
    return jnp.where(member, skipped, 0).sum(-1).astype(jnp.int32)
