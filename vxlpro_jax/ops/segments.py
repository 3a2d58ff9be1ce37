"""Helpers for several samples in one row; segment ids are contiguous from 1, and 0 is padding.

Shapes: `B` rows, `E` elements of a row, `S` segments.
"""

import jax
import jax.numpy as jnp


def one_hot(segments: jax.Array, *, num_segments: int) -> jax.Array:
    """Marks whether element e belongs to segment s + 1: bool [B, E, S], False in padding."""
    return segments[..., None] == jnp.arange(1, num_segments + 1)


def lookup(table: jax.Array, *, segments: jax.Array) -> jax.Array:
    """Looks up each element's entry of a table with a row per segment; padding gets segment 1's.

    The result is computed as a sum over the few segments, because the gradient of indexing would be
    a scatter, which XLA implements by sorting on TPUs.

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
    """Counts the preceding elements of the same segment: int32 [B, E] -> [B, E]."""
    at = jnp.broadcast_to(jnp.arange(segments.shape[-1]), segments.shape)
    starts = jnp.concatenate(
        [jnp.ones_like(segments[..., :1], bool), segments[..., 1:] != segments[..., :-1]], axis=-1
    )
    return at - jax.lax.cummax(jnp.where(starts, at, 0), axis=at.ndim - 1)
