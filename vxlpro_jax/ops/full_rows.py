"""Products of few vectors with a matrix, as in decoding."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vxlpro_jax.sharding import activations

# Rows that a TPU's registers hold.
_ROWS = 8


def with_full_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Applies a function of vectors to x [..., C]; on TPUs to at least eight of them.

    XLA computes the product of a single vector without the matrix unit, which takes twice as long
    as reading the matrix.
    """
    if math.prod(x.shape[:-1]) >= _ROWS or activations.platform() != "tpu":
        return function(x)
    return in_eight_rows(function, x)


def in_eight_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Applies a function of vectors to at most eight vectors x [..., C], after which zeros come."""
    count = math.prod(x.shape[:-1])
    rows = jnp.pad(x.reshape(count, x.shape[-1]), ((0, _ROWS - count), (0, 0)))
    y = function(rows)[:count]
    return y.reshape(*x.shape[:-1], y.shape[-1])
