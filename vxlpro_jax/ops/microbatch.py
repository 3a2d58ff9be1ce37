"""Maps a function over many frames a few at a time, to bound memory.

Shapes: `F` frames, or groups of frames, `f` frames of a microbatch, `N` microbatches of a device.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations

_MOST_PADDING = 0.05

Function = Callable[[Any, jax.Array], jax.Array]


def microbatched_map(
    function: Function, params: Any, x: jax.Array, *, microbatch: int
) -> jax.Array:
    """Computes `function(params, x)`, a few entries of x's leading axis at a time.

    Only inputs and outputs of a microbatch are kept; the backward pass recomputes the rest, one
    microbatch at a time. A device gathers the parameters once for all its microbatches, accumulates
    their gradients in at least float32, and reduces the sum over devices once.

    Args:
        function: function that maps parameters and a microbatch [f, ...] to [f, ...], entry by
            entry.
        params: tree of arrays, all of which the function uses.
        x: [F, ...], the entries of row after row. It is padded with zeros, so that every device
            has as many entries, and sharded as `activations.shard_frames` does.
        microbatch: largest number of entries that a device works on at a time; 0 for all of them.

    Returns:
        [F, ...].
    """
    devices = activations.axis_size(activations.FRAME_AXES)
    rows = activations.axis_size(activations.BATCH_AXES)
    rows = rows if len(x) % rows == 0 else 1
    each = len(x) // rows
    parts = _split(-(-each * rows // devices), size=microbatch)
    padded = _pad_rows(x, rows=rows, length=devices // rows * parts.count * parts.entries)
    mapped = _map_on_devices(function, params, padded, count=parts.count)
    return _cut_rows(mapped, rows=rows, length=each)


class _Parts(NamedTuple):
    """Attributes: `count` of a device's microbatches, and `entries` of each."""

    count: int
    entries: int


def _split(entries: int, *, size: int) -> _Parts:
    """Splits a device's entries into equal microbatches of at most `size`, padding at most 5 %."""
    for part in range(min(size or entries, entries), 0, -1):
        count = -(-entries // part)
        if count * part - entries <= entries * _MOST_PADDING:
            return _Parts(count, part)
    raise AssertionError("microbatches of one entry need no padding")


def _pad_rows(x: jax.Array, *, rows: int, length: int) -> jax.Array:
    """Pads each of the rows in [F, ...] with zeros, so that no entry leaves the row's devices."""
    if len(x) == rows * length:
        return activations.shard_frames(x)
    cut = activations.shard_rows(rearrange(x, "(r f) ... -> r f ...", r=rows))
    missing = length - cut.shape[1]
    padded = jnp.pad(cut, ((0, 0), (0, missing), *[(0, 0)] * (cut.ndim - 2)))
    return activations.shard_frames(rearrange(padded, "r f ... -> (r f) ..."))


def _cut_rows(x: jax.Array, *, rows: int, length: int) -> jax.Array:
    """Removes the padding of each row."""
    if len(x) == rows * length:
        return x
    cut = activations.shard_rows(rearrange(x, "(r f) ... -> r f ...", r=rows))[:, :length]
    return rearrange(cut, "r f ... -> (r f) ...")


def _map_on_devices(function, params, x, *, count) -> Any:
    """Maps entries of all devices, each of which maps its own ones in `count` microbatches."""
    if count == 1:
        return function(params, x)
    on_device = functools.partial(_map_on_device, function, count)
    axes = activations.frame_axes()
    if activations.axis_size(axes) == 1:
        return on_device(params, x)
    return jax.shard_map(
        on_device, in_specs=(P(), P(axes)), out_specs=P(axes), axis_names=set(axes), check_vma=False
    )(params, x)


def _map_on_device(function, count, params, x):
    """Maps the frames of one device."""
    mapped = _map(function, params, rearrange(x, "(n f) ... -> n f ...", n=count))
    return rearrange(mapped, "n f ... -> (n f) ...")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _map(function, params, x):
    """Maps all microbatches: [N, f, ...] -> [N, f, ...]."""
    return jax.lax.map(functools.partial(function, params), x)


def _forward(function, params, x):
    return _map(function, params, x), (params, x)


def _backward(function, saved, grads):
    params, x = saved
    is_discrete = not jnp.issubdtype(x.dtype, jnp.inexact)

    def accumulate(total, microbatch):
        inputs, grad = microbatch
        if is_discrete:
            _, pull_back = jax.vjp(lambda p: function(p, inputs), params)
            (d_params,), d_inputs = pull_back(grad), None
        else:
            _, pull_back = jax.vjp(function, params, inputs)
            d_params, d_inputs = pull_back(grad)
        total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, d_params)
        return total, d_inputs

    zeros = jax.tree.map(lambda p: jnp.zeros_like(at_least_float32(p)), params)
    total, d_x = jax.lax.scan(accumulate, zeros, (x, grads))
    return jax.tree.map(lambda t, p: t.astype(p.dtype), total, params), d_x


_map.defvjp(_forward, _backward)
