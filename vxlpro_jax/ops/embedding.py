"""Embedding lookup whose gradient is summed in at least float32."""

import functools

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.precision import at_least_float32


def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns the rows of a table [V, D] at ids, int32 [...] -> [..., D].

    An id that occurs often gets the sum of as many gradients. In bfloat16 such a sum stops growing
    at 256 equal terms, and a long video repeats the ids of its time stamps thousands of times.
    """
    return _lookup(len(table), table, ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lookup(rows, table, ids):
    del rows
    return table[ids]


def _forward(rows, table, ids):
    return _lookup(rows, table, ids), (ids, jnp.zeros(0, table.dtype))


def _backward(rows, saved, grad):
    ids, empty = saved
    grad = at_least_float32(grad)
    total = jnp.zeros((rows, grad.shape[-1]), grad.dtype).at[ids].add(grad)
    return total.astype(empty.dtype), None


_lookup.defvjp(_forward, _backward)
