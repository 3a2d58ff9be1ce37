"""The decoder's key/value cache, which is an argument and a result, never hidden state.

One array holds all layers, so that a loop over layers writes in place. Shapes: `L` layers, `B`
rows, `S` slots, `K` key/value heads, `H` head width, `T` new positions, `A` queried positions.
"""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental.layout import Layout, with_layout_constraint

from vxlpro_jax.config.schema import CacheType, DecoderConfig
from vxlpro_jax.ops.attention import cached
from vxlpro_jax.ops.attention.dispatch import attention_part
from vxlpro_jax.ops.attention.interface import Part
from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations

# Attention reads a long cache in blocks of this many slots.
BLOCK = 8192

# Prefill runs the decoder on this many new positions at once.
CHUNK = 4096

_INT8_MAX = 127


class Slots(flax.struct.PyTreeNode):
    """Keys or values of all layers.

    Heads and their width share an axis, because XLA would separate few heads in memory on one
    platform and pad them on another.

    Attributes:
        data: [L, B, S, K H]; int8 multiples of `scales` if there are scales.
        scales: float32 [L, B, K, S], one for each position and head, or None. Slots are the last
            axis because TPUs pad the last axis to a multiple of 128.
    """

    data: jax.Array
    scales: jax.Array | None = None

    def write(self, new: jax.Array, *, layer: jax.Array | int, starts: jax.Array) -> Self:
        """Writes new positions [B, T, K, H] of a layer from each row's own slot `starts` [B] on."""
        at = {"layer": layer, "starts": starts}
        if self.scales is None:
            return self.replace(data=_put(self.data, _flat(new), axis=2, **at))
        new = at_least_float32(new)
        scales = jnp.abs(new).max(-1) / _INT8_MAX
        whole = jnp.round(new / jnp.where(scales > 0, scales, 1)[..., None])
        return self.replace(
            data=_put(self.data, _flat(whole), axis=2, **at),
            scales=_put(self.scales, rearrange(scales, "b t k -> b k t"), axis=3, **at),
        )

    def read(self, *, layer: jax.Array | int, start: jax.Array, size: int, like) -> jax.Array:
        """Reads slots `start` to `start + size` of a layer in the type of `like` [B, T, K, H].

        Returns:
            [B, size, K, H].
        """
        at = {"layer": layer, "start": start, "size": size}
        part = _take(self.data, axis=2, **at).astype(like.dtype)
        part = rearrange(part, "b s (k h) -> b s k h", k=like.shape[2])
        if self.scales is not None:
            scales = rearrange(_take(self.scales, axis=3, **at), "b k s -> b s k 1")
            part = part * scales.astype(like.dtype)
        return part


class KVCache(flax.struct.PyTreeNode):
    """Keys and values of the positions read so far.

    Attributes:
        keys: keys of all layers.
        values: values of all layers.
        lengths: int32 [B], number of slots in use.
    """

    keys: Slots
    values: Slots
    lengths: jax.Array

    @classmethod
    def empty(
        cls, config: DecoderConfig, *, batch: int, slots: int, dtype, kind: CacheType = "model"
    ) -> Self:
        """Makes a cache of zeros with no slot in use.

        Args:
            config: sizes of the decoder.
            batch: number of rows B.
            slots: smallest number of slots S; above `BLOCK` it is rounded up to a multiple of it.
            dtype: type of the model's activations.
            kind: `model` stores that type; `int8` rounds each head's vector to 255 steps of a scale
                of its own, which takes half the memory of bfloat16.
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
        """Appends a layer's new keys and values [B, T, K, H]; `lengths` are left unchanged."""
        at = {"layer": layer, "starts": self.lengths}
        return self.replace(
            keys=self.keys.write(keys, **at), values=self.values.write(values, **at)
        )

    @property
    def block(self) -> int:
        """The number of slots that attention reads at a time, a divisor of S."""
        return min(BLOCK, self.keys.data.shape[2])


def _flat(x):
    return rearrange(x, "b t k h -> b t (k h)")


def _put(slots, new, *, axis, layer, starts):
    """Writes [B, ...] into [L, B, ...] at the layer and, along `axis`, at each row's start."""
    new = new.astype(slots.dtype)
    if len(starts) == 1:  # A plain update of a slice, which XLA does in place everywhere.
        at = _index(slots.ndim, {0: layer, axis: starts[0]})
        return jax.lax.dynamic_update_slice(slots, new[None], at)

    def put(row, part, start):
        at = _index(row.ndim, {0: layer, axis - 1: start})
        return jax.lax.dynamic_update_slice(row, part[None], at)

    return jax.vmap(put, in_axes=(1, 0, 0), out_axes=1)(slots, new, starts)


def _take(slots, *, axis, layer, start, size):
    """Takes a layer's [B, ...] of [L, B, ...], `size` entries of `axis` from `start` on."""
    sizes = [1, *slots.shape[1:]]
    sizes[axis] = size
    at = _index(slots.ndim, {0: layer, axis: start})
    part = jax.lax.dynamic_slice(slots, at, sizes)[0]
    # Otherwise XLA may choose another layout for the part and copy all slots to get it.
    return with_layout_constraint(part, Layout(tuple(range(part.ndim))))


def _index(ndim, places):
    """Start indices of a slice: zero except along the given axes, all of one type."""
    return [jnp.asarray(places.get(axis, 0), jnp.int32) for axis in range(ndim)]


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    cache: KVCache,
    layer: jax.Array | int,
    query_index: jax.Array | None,
    backend: str,
) -> jax.Array:
    """Computes attention of one layer to the cached and the new positions.

    Args:
        q: [B, A, N, H] rotated queries.
        k: [B, T, K, H] rotated keys of the new positions.
        v: [B, T, K, H] values of the new positions.
        cache: keys and values of earlier positions; only slots before its `lengths` are read.
        layer: index of the layer.
        query_index: int32 [B, A], indices of the queries among the new positions; None when every
            new position is one.
        backend: name of the attention backend.

    Returns:
        [B, A, N, H] in q's type.
    """
    where = {"partition": activations.SEQUENCES, "backend": backend}
    own = attention_part(q, k, v, causal=True, q_positions=query_index, **where)
    own = own.replace(out=at_least_float32(own.out))
    stored = [cached.Cached(slots.data, slots.scales) for slots in (cache.keys, cache.values)]
    if _has_kernel(q, stored[0], kv_heads=k.shape[2], backend=backend):
        at = {"lengths": cache.lengths, "layer": layer, "kv_heads": k.shape[2]}
        return merge(own, cached.attend(q, *stored, **at)).out.astype(q.dtype)

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


def _has_kernel(q, keys: cached.Cached, *, kv_heads, backend) -> bool:
    if backend != "auto" or activations.platform() != "tpu":
        return False
    return not cached.unsupported_reason(q, keys, kv_heads=kv_heads)


def merge(one: Part, other: Part) -> Part:
    """Combines attention to two sets of keys; every query must see some key of the first set."""
    log_sum = jnp.logaddexp(one.log_sum, other.log_sum)
    first, second = (jnp.exp(part.log_sum - log_sum)[..., None] for part in (one, other))
    return Part(one.out * first + other.out * second, log_sum)
