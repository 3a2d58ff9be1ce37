"""A function of many frames on a few at a time, so that memory does not grow with their number.

Shapes: `F` frames, or groups of frames, `f` those of a part, `N` parts of a device.
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


def microbatched_map(function: Function, params: Any, x: jax.Array, *, at_once: int) -> jax.Array:
    """`function(params, x)` for one that treats each of x's leading axis alike.

    Of the parts only what goes in and what comes out is kept; the backward pass computes the rest
    again, a part at a time. A device gathers the parameters once for all of its parts, adds up
    their gradients in float32 or more, and shares the sum with the others once.

    Args:
        function: parameters and a part [f, ...] to [f, ...].
        params: of arrays, all of which the function uses.
        x: [F, ...], to be spread over the mesh as `mesh.shard_frames` does.
        at_once: the most that a device works on at a time; 0 for all that it has.

    Returns:
        [F, ...].
    """
    x = activations.shard_frames(x)
    axes = activations.frame_axes(len(x))
    devices = activations.axis_size(axes)
    parts = _parts(len(x) // devices, at_once=at_once)
    if parts == 1:
        return function(params, x)
    share = functools.partial(_map_share, function, parts)
    if devices == 1:
        return share(params, x)
    spread = jax.shard_map(
        share, in_specs=(P(), P(axes)), out_specs=P(axes), axis_names=set(axes), check_vma=False
    )
    return spread(params, x)


def _parts(count: int, *, at_once: int) -> int:
    """The least number of equal parts of at most `at_once`."""
    if not at_once:
        return 1
    return next(n for n in range(1, count + 1) if count % n == 0 and count // n <= at_once)


def _map_share(function, parts, params, x):
    """A device's frames."""
    mapped = _map(function, params, rearrange(x, "(n f) ... -> n f ...", n=parts))
    return rearrange(mapped, "n f ... -> (n f) ...")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _map(function, params, x):
    """[N, f, ...] -> [N, f, ...]."""
    return jax.lax.map(functools.partial(function, params), x)


def _forward(function, params, x):
    return _map(function, params, x), (params, x)


def _backward(function, saved, grads):
    params, x = saved
    is_given = not jnp.issubdtype(x.dtype, jnp.inexact)

    def add(total, part):
        given, grad = part
        if is_given:
            _, pull_back = jax.vjp(lambda p: function(p, given), params)
            (own,), back = pull_back(grad), None
        else:
            _, pull_back = jax.vjp(function, params, given)
            own, back = pull_back(grad)
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, own), back

    zeros = jax.tree.map(lambda p: jnp.zeros_like(at_least_float32(p)), params)
    total, back = jax.lax.scan(add, zeros, (x, grads))
    return jax.tree.map(lambda t, p: t.astype(p.dtype), total, params), back


_map.defvjp(_forward, _backward)
