"""What every attention backend takes, and what it is.

Shapes: `B` rows, `T` queries, `S` keys, `N` query heads, `K` key/value heads, `H` head width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Inputs:
    """The arguments of `attention`, or those of some rows, queries or devices.

    Attributes:
        q: [B, T, N, H].
        k: [B, S, K, H].
        v: [B, S, K, H].
        q_positions: int32 [B, T]: a query sees the keys up to this index; None means all keys.
        q_segments: int32 [B, T], or None with `kv_segments`: a query sees keys of its own segment.
        kv_segments: int32 [B, S].
        kv_lengths: int32 [B], or None: only so many keys of a row count; not along with segments.
        is_self_causal: whether the positions are just those of `mesh.sequence_order`.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    q_positions: jax.Array | None = None
    q_segments: jax.Array | None = None
    kv_segments: jax.Array | None = None
    kv_lengths: jax.Array | None = None
    is_self_causal: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def accumulator(self) -> jnp.dtype:
        """The type of logits and sums: at least float32."""
        return jnp.promote_types(self.q.dtype, jnp.float32)

    def with_segments(self) -> Self:
        """The same with `kv_lengths` as segments."""
        if self.kv_lengths is None:
            return self
        is_used = jnp.arange(self.k.shape[1]) < self.kv_lengths[:, None]
        return self.replace(
            q_segments=jnp.ones(self.q.shape[:2], jnp.int32),
            kv_segments=is_used.astype(jnp.int32),
            kv_lengths=None,
        )


@flax.struct.dataclass
class Part:
    """Attention to some of the keys, to be merged with that to the others.

    Attributes:
        out: [B, T, N, H]; where a query sees none of the keys finite and without a meaning.
        log_sum: [B, T, N], logarithm of the sum of the exponentiated logits, in at least float32;
            the lowest number or near it where a query sees no key.
    """

    out: jax.Array
    log_sum: jax.Array


class Kernel(NamedTuple):
    """Attention as one device does it.

    Attributes:
        attend: the device's inputs and `tables` to [B, T, N, H], or to a `Part` where that was
            asked for.
        tables: arrays that follow from shapes alone.
        specs: their places on the mesh.
    """

    attend: Callable[[Inputs, Any], jax.Array | Part]
    tables: Any = ()
    specs: Any = ()
