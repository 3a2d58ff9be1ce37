"""Causal attention of new positions to a cache and to one another.

The new positions attend to the cache as it was, all of which they see, and causally to themselves;
the two are merged in at least float32. So the platform's kernels serve, one compiled program does
for every length of the cache, and its work is proportional to the slots in use.

Shapes: `B` rows, `T` new positions, `A` of them that ask, `N` query heads, `K` key/value heads, `H`
head width.
"""

import jax
import jax.numpy as jnp

from vxlpro_jax.config.schema import AttentionBackend
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.ops.attention.dispatch import attention_part
from vxlpro_jax.ops.attention.interface import Part
from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    cache: KVCache,
    layer: jax.Array | int,
    at: jax.Array | None,
    backend: AttentionBackend,
) -> jax.Array:
    """Attention of one layer.

    Args:
        q: [B, A, N, H], rotated.
        k: [B, T, K, H], rotated.
        v: [B, T, K, H].
        cache: of what came before; only slots before its `lengths` are read.
        layer: whose.
        at: int32 [B, A], which of the new positions ask; None when all do.
        backend: see `ops.attention`.

    Returns:
        [B, A, N, H] in q's type.
    """
    where = {"spread": activations.SEQUENCES, "backend": backend}
    own = attention_part(q, k, v, causal=True, q_positions=at, **where)
    own = own.replace(out=at_least_float32(own.out))

    def visit(index, so_far: Part) -> Part:
        start = index * cache.block
        keys, values = (
            slots.read(layer=layer, start=start, size=cache.block, like=k)
            for slots in (cache.keys, cache.values)
        )
        lengths = jnp.clip(cache.lengths - start, 0, cache.block)
        return merge(so_far, attention_part(q, keys, values, kv_lengths=lengths, **where))

    blocks = -(-cache.lengths.max() // cache.block)
    return jax.lax.fori_loop(0, blocks, visit, own).out.astype(q.dtype)


def merge(one: Part, other: Part) -> Part:
    """Attention to the keys of both; in the type of `one`, of which each query sees a key."""
    log_sum = jnp.logaddexp(one.log_sum, other.log_sum)
    first, second = (jnp.exp(part.log_sum - log_sum)[..., None] for part in (one, other))
    return Part(one.out * first + other.out * second, log_sum)
