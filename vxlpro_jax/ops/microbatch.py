"""Maps a function over many frames a few at a time, to bound memory.

Shapes: `F` frames, or groups of frames, `f` frames of a microbatch, `N` microbatches of a device.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations

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
        x: [F, ...], which is sharded as `activations.shard_frames` does.
        microbatch: largest number of entries that a device works on at a time; 0 for all of them.

    Returns:
        [F, ...].
    """
    x = activations.shard_frames(x)
    axes = activations.frame_axes(len(x))
    devices = activations.axis_size(axes)
    count = _num_microbatches(len(x) // devices, size=microbatch)
    if count == 1:
        return function(params, x)
    on_device = functools.partial(_map_on_device, function, count)
    if devices == 1:
        return on_device(params, x)
    sharded = jax.shard_map(
        on_device, in_specs=(P(), P(axes)), out_specs=P(axes), axis_names=set(axes), check_vma=False
    )
    return sharded(params, x)


def _num_microbatches(entries: int, *, size: int) -> int:
    """Returns the smallest number of equal microbatches of at most `size` entries."""
    if not size:
        return 1
    return next(n for n in range(1, entries + 1) if entries % n == 0 and entries // n <= size)


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
