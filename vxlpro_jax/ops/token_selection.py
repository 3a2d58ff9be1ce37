"""The choice of visual tokens: from scores to a mask, with static shapes.

Shapes: `B` rows, `E` visual tokens of a row, `S` segments (samples) of a row.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.ops import segments as seg
from vxlpro_jax.ops.precision import at_least_float32

_MULTIPLE = 16


def num_kept(num_tokens, *, ratio):
    """Computes the number of visual tokens kept: floor(N r), rounded down to a multiple of 16.

    Python and NumPy numbers are computed in double precision, as in the release (1440 x 0.7 gives
    1007, hence 992; float32 would give 1008). At least min(16, N) are kept, a case that the release
    leaves undefined.

    Args:
        num_tokens: number N of a sample's visual tokens, or an array of such numbers.
        ratio: keep ratio r in (0, 1], or an array.

    Returns:
        The number of kept tokens, in num_tokens' shape.
    """
    xp = jnp if isinstance(num_tokens, jax.Array) or isinstance(ratio, jax.Array) else np
    kept = xp.floor(num_tokens * ratio).astype(xp.int32)
    return xp.maximum(kept - kept % _MULTIPLE, xp.minimum(_MULTIPLE, num_tokens))


def normalize(scores: jax.Array, *, segments: jax.Array, num_segments: int) -> jax.Array:
    """Scales each segment's scores to [0, 1] by their minimum and maximum.

    Args:
        scores: [B, E].
        segments: int32 [B, E], segment of each token; 0 in padding.
        num_segments: number of segments S.

    Returns:
        [B, E]; 0 in padding and where all scores of a segment are equal.
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

    The lowest kept score of each segment is found bit by bit, because XLA compiles sorts slowly for
    TPUs.

    Args:
        scores: [B, E].
        segments: int32 [B, E], contiguous from 1, 0 in padding.
        counts: int32 [B, S], number of tokens to keep of each segment.

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
    """Maps numbers to unsigned integers of the same order; +0 and -0 become equal."""
    x = at_least_float32(x)
    x = jnp.where(x == 0, 0, x)
    kind = jnp.uint64 if x.dtype.itemsize == 8 else jnp.uint32
    bits = jax.lax.bitcast_convert_type(x, kind)
    sign = jnp.asarray(1, kind) << (jnp.iinfo(kind).bits - 1)
    return jnp.where(bits & sign, ~bits, bits | sign)
