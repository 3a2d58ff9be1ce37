"""Helpers for several samples in one row: 1-based, contiguous segment ids, 0 in padding.

Shapes: `B` rows, `E` elements of a row, `S` segments.
"""

import jax
import jax.numpy as jnp


def one_hot(segments: jax.Array, *, num_segments: int) -> jax.Array:
    """bool [B, E, S]: element e belongs to segment s + 1; padding belongs to none."""
    return segments[..., None] == jnp.arange(1, num_segments + 1)


def lookup(table: jax.Array, *, segments: jax.Array) -> jax.Array:
    """Each element's entry of a per-segment table; padding gets that of segment 1.

    A sum over the few segments, because the gradient of an index would be a scatter, which XLA
    sorts for on TPUs.

    Args:
        table: [B, S, ...].
        segments: int32 [B, E].

    Returns:
        [B, E, ...].
    """
    member = one_hot(jnp.maximum(segments, 1), num_segments=table.shape[1])
    member = member.reshape(*member.shape, *[1] * (table.ndim - 2))
    return jnp.where(member, table[:, None], 0).sum(2, dtype=table.dtype)


def index_in_segment(segments: jax.Array) -> jax.Array:
    """How many elements of its own segment stand before each element. int32 [B, E] -> [B, E]."""
    at = jnp.broadcast_to(jnp.arange(segments.shape[-1]), segments.shape)
    starts = jnp.concatenate(
        [jnp.ones_like(segments[..., :1], bool), segments[..., 1:] != segments[..., :-1]], axis=-1
    )
    return at - jax.lax.cummax(jnp.where(starts, at, 0), axis=at.ndim - 1)
