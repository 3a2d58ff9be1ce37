"""Addition of a bias whose gradient is fast on TPUs."""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.sums import sum_of_vectors
from vxlpro_jax.sharding import activations


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias [C] to x [..., C] of the same type; on TPUs by `add_summing_by_products`."""
    return add_summing_by_products(x, bias) if activations.platform() == "tpu" else x + bias


@jax.custom_vjp
def add_summing_by_products(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias whose gradient is a product with ones, accumulated in at least float32.

    A plain sum of what a kernel has left takes ten times as long by the compiler's model.
    """
    return x + bias


def _forward(x, bias):
    return x + bias, jnp.zeros(0, bias.dtype)


def _backward(empty, grad):
    return grad, sum_of_vectors(grad).astype(empty.dtype)


add_summing_by_products.defvjp(_forward, _backward)
