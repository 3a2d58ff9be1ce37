"""The interface of attention backends: inputs, results and lookup.

Shapes: `B` rows, `T` queries, `S` keys, `N` query heads, `K` key/value heads, `H` head width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp

from vxlpro_jax.sharding.activations import Axes
from vxlpro_jax.utils.registry import Registry

# Name, for `jax.ad_checkpoint.checkpoint_name`, of what a backend's forward pass leaves for its
# backward pass: the output and the log-sum-exp of the logits.
KEPT = "attention"


class Inputs(flax.struct.PyTreeNode):
    """The arguments of `attention`, or their part for some rows, queries or devices.

    Attributes:
        q: [B, T, N, H] queries.
        k: [B, S, K, H] keys.
        v: [B, S, K, H] values.
        q_positions: int32 [B, T], index of the last key that each query sees; None for all keys.
        q_segments: int32 [B, T], segment of each query, which sees only keys of its segment; None
            together with `kv_segments`.
        kv_segments: int32 [B, S], segment of each key.
        kv_lengths: int32 [B], number of valid keys of each row; None for all. Not used together
            with segments.
        is_self_causal: whether the positions are exactly `activations.sequence_order`.
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
        """The type of logits and sums, at least float32."""
        return jnp.promote_types(self.q.dtype, jnp.float32)

    def with_segments(self) -> Self:
        """Returns the inputs with `kv_lengths` expressed as segments."""
        if self.kv_lengths is None:
            return self
        is_used = jnp.arange(self.k.shape[1]) < self.kv_lengths[:, None]
        return self.replace(
            q_segments=jnp.ones(self.q.shape[:2], jnp.int32),
            kv_segments=is_used.astype(jnp.int32),
            kv_lengths=None,
        )


class Part(flax.struct.PyTreeNode):
    """Attention to some of the keys, to be merged with the attention to the others.

    Attributes:
        out: [B, T, N, H], finite but meaningless where a query sees none of the keys.
        log_sum: [B, T, N], logarithm of the sum of the exponentiated logits, in at least float32;
            the lowest number or near it where a query sees no key.
    """

    out: jax.Array
    log_sum: jax.Array


class Kernel(NamedTuple):
    """Attention on one device.

    Attributes:
        attend: function of the device's inputs and of `tables`, whose result is [B, T, N, H] or a
            `Part`.
        tables: arrays that depend on shapes alone.
        specs: sharding of the tables.
    """

    attend: Callable[[Inputs, Any], jax.Array | Part]
    tables: Any = ()
    specs: Any = ()


def always(x: Inputs, axes: Axes) -> str:
    """Returns an empty text: the `unsupported_reason` of a backend that supports every input."""
    return ""


class Backend(NamedTuple):
    """One way to compute attention.

    Each function takes the inputs of the whole mesh and the mesh axes over which they are sharded.

    Attributes:
        kernel: function that makes the kernel of `attention`, whose result is [B, T, N, H].
        part_kernel: function that makes the kernel of `attention_part`, whose result is a `Part`.
        unsupported_reason: function that says why the backend cannot compute this attention; empty
            if it can.
        platform: `tpu` or `gpu` if `auto` prefers this backend there; empty if the backend is only
            used when named.
    """

    kernel: Callable[[Inputs, Axes], Kernel]
    part_kernel: Callable[[Inputs, Axes], Kernel]
    unsupported_reason: Callable[[Inputs, Axes], str] = always
    platform: str = ""

    @classmethod
    def of_functions(
        cls, attend: Callable[[Inputs], jax.Array], attend_part: Callable[[Inputs], Part]
    ) -> Self:
        """Makes a backend from two functions of one device's inputs, without tables."""

        def kernel_of(function) -> Callable[[Inputs, Axes], Kernel]:
            return lambda x, axes: Kernel(lambda part, tables: function(part))

        return cls(kernel_of(attend), kernel_of(attend_part))


BACKENDS: Registry[Backend] = Registry(
    "vxlpro_jax.ops.attention.backends", attribute="BACKEND", kind="attention backend"
)
