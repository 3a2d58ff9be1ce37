"""What every attention backend takes, and what it is.

Shapes: `B` rows, `T` queries, `S` keys, `N` query heads, `K` key/value heads, `H` head width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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
        is_self_causal: whether the positions are just those of `mesh.sequence_order`.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    q_positions: jax.Array | None = None
    q_segments: jax.Array | None = None
    kv_segments: jax.Array | None = None
    is_self_causal: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def accumulator(self) -> jnp.dtype:
        """The type of logits and sums: at least float32."""
        return jnp.promote_types(self.q.dtype, jnp.float32)


class Kernel(NamedTuple):
    """Attention as one device does it.

    Attributes:
        attend: the device's inputs and `tables` to [B, T, N, H].
        tables: arrays that follow from shapes alone.
        specs: their places on the mesh.
    """

    attend: Callable[[Inputs, Any], jax.Array]
    tables: Any = ()
    specs: Any = ()
