"""The decoder's key/value cache: an argument and a result, never hidden state.

One array holds all layers, so that a loop over them writes in place. Shapes: `L` layers, `B` rows,
`S` slots, `K` key/value heads, `H` head width, `T` new positions.
"""

from typing import Literal, Self

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental.layout import Layout, with_layout_constraint

from vxlpro_jax.config.schema import DecoderConfig
from vxlpro_jax.ops.attention.dispatch import attention_part
from vxlpro_jax.ops.attention.interface import Part
from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations

# Attention reads a long cache so many slots at a time.
BLOCK = 8192

# New positions that go through the decoder at once.
CHUNK = 4096

CacheType = Literal["model", "int8"]
_INT8_MAX = 127


@flax.struct.dataclass
class Slots:
    """Keys or values of all layers.

    Heads are not an axis of their own: XLA would lay few heads out apart on one platform and pad
    them on another.

    Attributes:
        data: [L, B, S, K H]; whole numbers to be multiplied with `scales` where those are.
        scales: float32 [L, B, K, S], of each position and head, or None. Slots come last because
            TPUs fill the last axis up to 128.
    """

    data: jax.Array
    scales: jax.Array | None = None

    def write(self, new: jax.Array, *, layer: jax.Array | int, starts: jax.Array) -> Self:
        """Writes each row's new positions [B, T, K, H] from its own slot `starts` [B] on."""
        at = {"layer": layer, "starts": starts}
        if self.scales is None:
            return self.replace(data=_put(self.data, _flat(new), axis=2, **at))
        new = at_least_float32(new)
        scales = jnp.abs(new).max(-1) / _INT8_MAX
        whole = jnp.round(new / jnp.where(scales > 0, scales, 1)[..., None])
        return Slots(
            _put(self.data, _flat(whole), axis=2, **at),
            _put(self.scales, rearrange(scales, "b t k -> b k t"), axis=3, **at),
        )

    def read(self, *, layer: jax.Array | int, start: jax.Array, size: int, like) -> jax.Array:
        """Slots `start` to `start + size` of a layer, [B, size, K, H]; type and heads of `like`."""
        at = {"layer": layer, "start": start, "size": size}
        part = _take(self.data, axis=2, **at).astype(like.dtype)
        part = rearrange(part, "b s (k h) -> b s k h", k=like.shape[2])
        if self.scales is not None:
            scales = rearrange(_take(self.scales, axis=3, **at), "b k s -> b s k 1")
            part = part * scales.astype(like.dtype)
        return part


@flax.struct.dataclass
class KVCache:
    """Keys and values of the positions seen so far.

    Attributes:
        keys: of all layers.
        values: likewise.
        lengths: int32 [B], slots in use.
    """

    keys: Slots
    values: Slots
    lengths: jax.Array

    @classmethod
    def empty(
        cls, config: DecoderConfig, *, batch: int, slots: int, dtype, kind: CacheType = "model"
    ) -> Self:
        """A cache of zeros with no slot in use.

        Args:
            config: of the decoder.
            batch: B.
            slots: at least so many; more than `BLOCK` are rounded up to a multiple of it.
            dtype: of the model.
            kind: `model` keeps that type; `int8` rounds each head's vector to 255 steps of a scale
                of its own, which takes half of bfloat16.
        """
        if slots > BLOCK:
            slots = -(-slots // BLOCK) * BLOCK
        shape, heads = (config.depth, batch, slots), config.num_kv_heads
        width = heads * config.head_dim

        def zeros():
            if kind == "model":
                return Slots(jnp.zeros((*shape, width), dtype))
            whole = jnp.zeros((*shape, width), jnp.int8)
            return Slots(whole, jnp.zeros((config.depth, batch, heads, slots), jnp.float32))

        return cls(keys=zeros(), values=zeros(), lengths=jnp.zeros((batch,), jnp.int32))

    def write(self, keys: jax.Array, values: jax.Array, *, layer: jax.Array | int) -> Self:
        """A layer's new keys and values [B, T, K, H] behind what is there; `lengths` stay."""
        at = {"layer": layer, "starts": self.lengths}
        return self.replace(
            keys=self.keys.write(keys, **at), values=self.values.write(values, **at)
        )

    @property
    def block(self) -> int:
        """How many slots attention reads at a time; a divisor of S."""
        return min(BLOCK, self.keys.data.shape[2])


def _flat(x):
    return rearrange(x, "b t k h -> b t (k h)")


def _put(slots, new, *, axis, layer, starts):
    """[L, B, ...] with [B, ...], shorter along `axis`, at the layer and each row's start."""
    new = new.astype(slots.dtype)
    if len(starts) == 1:  # A plain update of a slice, which XLA does in place everywhere.
        at = _index(slots.ndim, {0: layer, axis: starts[0]})
        return jax.lax.dynamic_update_slice(slots, new[None], at)

    def put(row, part, start):
        at = _index(row.ndim, {0: layer, axis - 1: start})
        return jax.lax.dynamic_update_slice(row, part[None], at)

    return jax.vmap(put, in_axes=(1, 0, 0), out_axes=1)(slots, new, starts)


def _take(slots, *, axis, layer, start, size):
    """[L, B, ...] to the layer's [B, ...], `size` of `axis` from `start` on."""
    sizes = [1, *slots.shape[1:]]
    sizes[axis] = size
    at = _index(slots.ndim, {0: layer, axis: start})
    part = jax.lax.dynamic_slice(slots, at, sizes)[0]
    # Else XLA may want the part in another layout and, for that, a copy of all slots.
    return with_layout_constraint(part, Layout(range(part.ndim)))


def _index(ndim, places):
    """Zeros but for the given axes, all of one type."""
    return [jnp.asarray(places.get(axis, 0), jnp.int32) for axis in range(ndim)]


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    cache: KVCache,
    layer: jax.Array | int,
    at: jax.Array | None,
    backend: str,
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
    where = {"partition": activations.SEQUENCES, "backend": backend}
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
