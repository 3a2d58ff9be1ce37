"""The decoder's key/value cache: an argument and a result, never hidden state.

Shapes: `L` layers, `B` rows, `S` slots, `K` key/value heads, `H` head width, `T` new positions.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp

from vxlpro_jax.config import DecoderConfig


@flax.struct.dataclass
class KVCache:
    """Keys and values of the positions seen so far.

    Attributes:
        keys: [L, B, S, K, H].
        values: [L, B, S, K, H].
        lengths: int32 [B], slots in use.
    """

    keys: jax.Array
    values: jax.Array
    lengths: jax.Array

    @classmethod
    def empty(cls, config: DecoderConfig, *, batch: int, slots: int, dtype) -> Self:
        """A cache of zeros with no slot in use."""
        shape = (config.depth, batch, slots, config.num_kv_heads, config.head_dim)
        return cls(
            keys=jnp.zeros(shape, dtype),
            values=jnp.zeros(shape, dtype),
            lengths=jnp.zeros((batch,), jnp.int32),
        )


def write(cache: jax.Array, new: jax.Array, *, starts: jax.Array) -> jax.Array:
    """Writes each row's new positions from its own start on.

    Args:
        cache: [B, S, K, H], one layer's keys or values.
        new: [B, T, K, H].
        starts: int32 [B].
    """
    put = jax.vmap(lambda row, part, at: jax.lax.dynamic_update_slice(row, part, (at, 0, 0)))
    return put(cache, new.astype(cache.dtype), starts)
