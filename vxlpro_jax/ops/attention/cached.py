"""Attention of a few queries to a long key/value cache, by a Pallas kernel for TPUs.

While a block of the cache is read, the one before it is computed with, so that a step takes about
as long as reading the cache. Slots that are not in use are not read.

Shapes: `L` layers, `B` rows, `S` slots, `K` key/value heads, `H` head width, `A` queries, `N` query
heads, `R = A N / K` queries of a key/value head.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vxlpro_jax.ops.attention.interface import Part
from vxlpro_jax.ops.attention.pallas import product
from vxlpro_jax.sharding import activations

# Slots of a block, the largest first: two blocks of keys and two of values fit into the memory.
_BLOCKS = (2048, 1024, 512, 256)
_MAX_ROWS = 1024
_VMEM_BYTES = 64 * 2**20
_LOWEST = float(jnp.finfo(jnp.float32).min)


class Cached(NamedTuple):
    """Keys or values of all layers.

    Attributes:
        data: [L, B, S, K H]; int8 multiples of `scales` if there are scales.
        scales: float32 [L, B, K, S], or None.
    """

    data: jax.Array
    scales: jax.Array | None


def unsupported_reason(q: jax.Array, keys: Cached, *, kv_heads: int) -> str:
    """Says why the kernel does not support queries [B, A, N, H]; empty if it does."""
    rows, width = q.shape[1] * q.shape[2] // kv_heads, q.shape[-1]
    if activations.axis_size() > 1:
        return "the cache must be on one device"
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"the type must be bfloat16 or float32, not {q.dtype}"
    if width % activations.LANES:
        return f"the width of a head must be a multiple of {activations.LANES}, not {width}"
    if rows > _MAX_ROWS:
        return f"a key head must not have more than {_MAX_ROWS} queries, not {rows}"
    if not _block(keys.data.shape[2]):
        return f"slots must be a multiple of {_BLOCKS[-1]}, not {keys.data.shape[2]}"
    return ""


def attend(
    q: jax.Array,
    keys: Cached,
    values: Cached,
    *,
    lengths: jax.Array,
    layer: jax.Array | int,
    kv_heads: int,
    interpret: bool = False,
) -> Part:
    """Computes attention to the first slots of each row of a layer. It has no gradient.

    Args:
        q: [B, A, N, H] queries.
        keys: keys of all layers.
        values: values of all layers.
        lengths: int32 [B], number of slots of each row that are in use.
        layer: index of the layer.
        kv_heads: number of key/value heads K.
        interpret: whether to run the kernel where there is no TPU.
    """
    count, width = q.shape[1], q.shape[-1]
    scaled = rearrange(q * width**-0.5, "b a (k g) h -> b k (a g) h", k=kv_heads)
    scales = [x.scales for x in (keys, values) if x.scales is not None]
    out, log_sum = pl.pallas_call(
        functools.partial(_kernel, block=_block(keys.data.shape[2])),
        grid_spec=_grid(scaled.shape, slots=keys.data.shape[2], num_scales=len(scales)),
        out_shape=[
            jax.ShapeDtypeStruct(scaled.shape, jnp.float32),
            jax.ShapeDtypeStruct((*scaled.shape[:3], 1), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=_VMEM_BYTES
        ),
        name="cached_attention",
        interpret=interpret,
    )(jnp.asarray(layer, jnp.int32)[None], lengths, scaled, keys.data, values.data, *scales)
    return Part(
        out=rearrange(out, "b k (a g) h -> b a (k g) h", a=count),
        log_sum=rearrange(log_sum, "b k (a g) 1 -> b a (k g)", a=count),
    )


def _grid(queries, *, slots, num_scales):
    """Returns the grid of rows and blocks, with its blocks of each array, for queries [B,K,R,H]."""
    batch, heads, rows, width = queries
    block = _block(slots)

    def last(index, used):
        """Returns a block's index, or that of the last one in use, which is not copied again."""
        return jnp.minimum(index, jnp.maximum(used - 1, 0) // block)

    def at_row(shape):
        return pl.BlockSpec((None, *shape), lambda b, i, layer, used: (b, 0, 0, 0))

    data = pl.BlockSpec(
        (None, None, block, heads * width),
        lambda b, i, layer, used: (layer[0], b, last(i, used[b]), 0),
    )
    scales = pl.BlockSpec(
        (None, None, heads, block), lambda b, i, layer, used: (layer[0], b, 0, last(i, used[b]))
    )
    sums, vectors = (heads, rows, 1), (heads, rows, width)
    return pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(batch, slots // block),
        in_specs=[at_row(vectors), data, data, *[scales] * num_scales],
        out_specs=[at_row(vectors), at_row(sums)],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in (sums, sums, vectors)],
    )


def _block(slots: int) -> int:
    """Returns the slots of a block; 0 if none of the sizes divides them."""
    return next((size for size in _BLOCKS if slots % size == 0), 0)


def _kernel(at_ref, used_ref, q_ref, k_ref, v_ref, *refs, block):
    *scale_refs, out_ref, log_sum_ref, largest_ref, total_ref, sum_ref = refs
    index = pl.program_id(1)
    used = used_ref[pl.program_id(0)]

    @pl.when(index == 0)
    def _():
        largest_ref[...] = jnp.full_like(largest_ref, _LOWEST)
        total_ref[...] = jnp.zeros_like(total_ref)
        sum_ref[...] = jnp.zeros_like(sum_ref)

    @pl.when(index * block < used)
    def _():
        for head in range(q_ref.shape[0]):
            q, width = q_ref[head], q_ref.shape[-1]
            place = pl.ds(head * width, width)
            key_scale, value_scale = [ref[pl.ds(head, 1), :] for ref in scale_refs] or (1, 1)
            logits = product(q, _converted(k_ref[:, place], q.dtype), (1, 1)) * key_scale
            slots = index * block + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
            logits = jnp.where(slots < used, logits, _LOWEST)
            before = largest_ref[head]
            largest = jnp.maximum(before, logits.max(axis=1, keepdims=True))
            weights, decay = jnp.exp(logits - largest), jnp.exp(before - largest)
            total_ref[head] = total_ref[head] * decay + weights.sum(axis=1, keepdims=True)
            weights = weights * value_scale
            part = product(weights.astype(q.dtype), _converted(v_ref[:, place], q.dtype), (1, 0))
            sum_ref[head] = sum_ref[head] * decay + part
            largest_ref[head] = largest

    @pl.when(index == pl.num_programs(1) - 1)
    def _():
        total = total_ref[...]
        is_empty = total == 0
        out_ref[...] = sum_ref[...] / jnp.where(is_empty, 1, total)
        log_sum_ref[...] = jnp.where(is_empty, _LOWEST, largest_ref[...] + jnp.log(total))


def _converted(x, dtype):
    """Converts int8, which TPUs convert to floating point only by way of int32."""
    return x.astype(jnp.int32).astype(jnp.float32).astype(dtype) if x.dtype == jnp.int8 else x
