"""Addition of a bias whose gradient is fast on TPUs."""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations

# Rows of ones: as many as a TPU's registers have, since a single one would become a plain sum.
_ROWS = 8


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias [C] to x [..., C] of the same type; on TPUs by `add_summing_by_products`."""
    return add_summing_by_products(x, bias) if activations.platform() == "tpu" else x + bias


@jax.custom_vjp
def add_summing_by_products(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias whose gradient is a product with ones, accumulated in at least float32.

    A TPU's matrix unit is ten times as fast as its plain sum of an array that a kernel has left.
    """
    return x + bias


def _forward(x, bias):
    return x + bias, jnp.zeros(0, bias.dtype)


def _backward(empty, grad):
    ones = jnp.ones((_ROWS, *grad.shape[:-1]), grad.dtype)
    axes = tuple(range(grad.ndim - 1))
    sums = jax.lax.dot_general(
        ones,
        grad,
        ((tuple(axis + 1 for axis in axes), axes), ((), ())),
        preferred_element_type=at_least_float32(grad).dtype,
    )
    return grad, sums[0].astype(empty.dtype)


add_summing_by_products.defvjp(_forward, _backward)
