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
    function: Function, params: Any, x: jax.Array, *, microbatch: int, specs: Any = None
) -> jax.Array:
    """Computes `function(params, x)`, a few entries of x's leading axis at a time.

    Only inputs and outputs of a microbatch are kept; the backward pass recomputes the rest, one
    microbatch at a time. A device gathers the parameters once for all its microbatches and again in
    the backward pass, accumulates their gradients in at least float32, and gets its own part of
    their sum over devices once.

    Args:
        function: function that maps parameters and a microbatch [f, ...] to [f, ...], entry by
            entry.
        params: tree of arrays, all of which the function uses.
        x: [F, ...], the entries of row after row. It is padded with zeros, so that every device
            has as many entries, and sharded as `activations.shard_frames` does.
        microbatch: largest number of entries that a device works on at a time; 0 for all of them.
        specs: tree of `PartitionSpec`s, how the parameters are sharded over the mesh, in which an
            entry is an axis or None. None if every device has all of them.

    Returns:
        [F, ...].
    """
    devices = activations.axis_size(activations.FRAME_AXES)
    rows = activations.axis_size(activations.BATCH_AXES)
    rows = rows if len(x) % rows == 0 else 1
    each = len(x) // rows
    parts = _split(-(-each * rows // devices), size=microbatch)
    padded = _pad_rows(x, rows=rows, length=devices // rows * parts.count * parts.entries)
    mapped = _map_on_devices(function, params, padded, count=parts.count, specs=specs)
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


def _map_on_devices(function, params, x, *, count, specs) -> Any:
    """Maps entries of all devices, each of which maps its own ones in `count` microbatches."""
    if count == 1:
        return function(params, x)
    axes = activations.frame_axes()
    if activations.axis_size(axes) == 1:
        return _map_on_device(function, _Exchange(), count, params, x)
    # Axes of one device are included, because Pallas kernels need every axis to be manual.
    manual = frozenset({*axes, *activations.single_axes()})
    specs = jax.tree.map(lambda _: P(), params) if specs is None else specs
    specs = jax.tree.map(lambda _, spec: _only(spec, manual), params, specs)
    on_device = functools.partial(_map_on_device, function, _Exchange(specs), count)
    return jax.shard_map(
        on_device, in_specs=(specs, P(axes)), out_specs=P(axes), axis_names=manual, check_vma=False
    )(params, x)


def _only(spec: P, axes: frozenset[str]) -> P:
    """Removes all axes but the given ones from a spec."""
    return P(*(axis if axis in axes else None for axis in spec))


class _Exchange:
    """Exchanges parameters and gradients between the devices of a `jax.shard_map`."""

    def __init__(self, specs: Any = None):
        """Stores the tree of specs; None if no parameter is sharded."""
        self._specs = specs

    def gather(self, params: Any) -> Any:
        """Gathers the whole of each parameter."""
        return self._map(jax.lax.all_gather, "axis", params)

    def scatter(self, grads: Any) -> Any:
        """Sums gradients over the devices among which a parameter is split, and splits the sum.

        `jax.shard_map` itself sums over the other devices.
        """
        return self._map(jax.lax.psum_scatter, "scatter_dimension", grads)

    def _map(self, collective, dimension, tree):
        def along_each_axis(x, spec):
            for index, axis in enumerate(spec):
                if axis is not None:
                    x = collective(x, axis, tiled=True, **{dimension: index})
            return x

        return tree if self._specs is None else jax.tree.map(along_each_axis, tree, self._specs)


def _map_on_device(function, exchange, count, params, x):
    """Maps the frames of one device."""
    mapped = _map(function, exchange, params, rearrange(x, "(n f) ... -> n f ...", n=count))
    return rearrange(mapped, "n f ... -> (n f) ...")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _map(function, exchange, params, x):
    """Maps all microbatches: [N, f, ...] -> [N, f, ...]."""
    return jax.lax.map(functools.partial(function, exchange.gather(params)), x)


def _forward(function, exchange, params, x):
    return _map(function, exchange, params, x), (params, x)


def _backward(function, exchange, saved, grads):
    shards, x = saved
    params = exchange.gather(shards)
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
    return exchange.scatter(jax.tree.map(lambda t, p: t.astype(p.dtype), total, params)), d_x


_map.defvjp(_forward, _backward)
