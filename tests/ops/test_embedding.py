"""Tests the embedding lookup: values, and gradients of ids that occur often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.ops.embedding import lookup


def gradient(weights, ids, *, dtype):
    table = jnp.zeros((8, weights.shape[-1]), dtype)
    return jax.grad(lambda x: (lookup(x, ids) * weights.astype(dtype)).sum())(table)


def test_rows_are_those_of_the_ids():
    table = jnp.arange(12.0).reshape(4, 3)
    ids = jnp.array([[3, 0], [1, 3]])
    np.testing.assert_array_equal(lookup(table, ids), np.asarray(table)[np.asarray(ids)])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_of_an_id_that_occurs_thousands_of_times_are_right(dtype, float64):
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.uniform(0.5, 1.5, (5000, 4))).astype(dtype)
    ids = jnp.asarray(np.where(rng.random(5000) < 0.9, 2, rng.integers(8, size=5000)))
    found = gradient(weights, ids, dtype=dtype)
    assert found.dtype == dtype
    exact = gradient(weights, ids, dtype=jnp.float64)
    np.testing.assert_allclose(found.astype(jnp.float64), exact, rtol=float(jnp.finfo(dtype).eps))
