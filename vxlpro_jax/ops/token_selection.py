"""Which visual tokens are kept: scores to ranks to a mask, with static shapes.

Shapes: `B` rows, `E` visual tokens of a row, `S` segments (samples) of a row.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.ops import segments as seg
from vxlpro_jax.ops.precision import at_least_float32

_MULTIPLE = 16


def num_kept(num_tokens, *, ratio):
    """How many of a sample's visual tokens are kept: floor(N r) rounded down to a multiple of 16.

    Given Python or NumPy numbers it computes in double precision, as the release does on the host
    (1440 x 0.7 gives 1007, so 992; float32 would give 1008). At least min(16, N) are kept, where
    the release says nothing.

    Args:
        num_tokens: N, an integer or an array of them.
        ratio: r in (0, 1], a number or an array.

    Returns:
        The count, in num_tokens' shape.
    """
    xp = jnp if isinstance(num_tokens, jax.Array) or isinstance(ratio, jax.Array) else np
    kept = xp.floor(num_tokens * ratio).astype(xp.int32)
    return xp.maximum(kept - kept % _MULTIPLE, xp.minimum(_MULTIPLE, num_tokens))


def normalize(scores: jax.Array, *, segments: jax.Array, num_segments: int) -> jax.Array:
    """Min-max of each segment's scores to [0, 1]; zeros where all its scores are equal.

    Args:
        scores: [B, E].
        segments: int32 [B, E]; padding scores 0.
        num_segments: S.
    """
    member = seg.one_hot(segments, num_segments=num_segments)
    lowest = jnp.where(member, scores[..., None], jnp.inf).min(1)
    highest = jnp.where(member, scores[..., None], -jnp.inf).max(1)
    occupied = member.any(1)
    lowest = jnp.where(occupied, lowest, 0)
    span = jnp.where(occupied, highest, 0) - lowest
    lowest, span = seg.lookup(lowest, segments=segments), seg.lookup(span, segments=segments)
    scaled = (scores - lowest) / jnp.where(span > 0, span, 1)
    return jnp.where((segments > 0) & (span > 0), scaled, 0)


def keep_highest(scores: jax.Array, *, segments: jax.Array, counts: jax.Array) -> jax.Array:
    """Marks the `counts` highest scores of each segment; ties go to the lower index.

    Finds each segment's lowest score that stays bit by bit, because XLA takes long to compile sorts
    for TPUs.

    Args:
        scores: [B, E].
        segments: int32 [B, E], contiguous from 1, 0 in padding.
        counts: int32 [B, S].

    Returns:
        bool [B, E], False in padding.
    """
    num_segments = counts.shape[1]
    member = seg.one_hot(segments, num_segments=num_segments)
    ranks = _ordered_bits(scores)
    bits = jnp.iinfo(ranks.dtype).bits

    def try_bit(index, least):
        more = least | jnp.asarray(1, ranks.dtype) << (bits - 1 - index).astype(ranks.dtype)
        stay = ranks[..., None] >= more[:, None]
        return jnp.where((member & stay).sum(1) >= counts, more, least)

    least = jax.lax.fori_loop(0, bits, try_bit, jnp.zeros_like(counts, ranks.dtype))
    least = seg.lookup(least, segments=segments)
    above, equal = ranks > least, ranks == least
    left = counts - (member & above[..., None]).sum(1)
    place = (jnp.cumsum(member & equal[..., None], axis=1) * member).sum(-1)
    chosen = above | (equal & (place <= seg.lookup(left, segments=segments)))
    has_any = seg.lookup(counts, segments=segments) > 0
    return (segments > 0) & has_any & chosen


def _ordered_bits(x: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the numbers; the two zeros are equal."""
    x = at_least_float32(x)
    x = jnp.where(x == 0, 0, x)
    kind = jnp.uint64 if x.dtype.itemsize == 8 else jnp.uint32
    bits = jax.lax.bitcast_convert_type(x, kind)
    sign = jnp.asarray(1, kind) << (jnp.iinfo(kind).bits - 1)
    return jnp.where(bits & sign, ~bits, bits | sign)
