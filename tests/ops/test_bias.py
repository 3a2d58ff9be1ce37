"""Tests the gradient of a bias that is summed by products, as on TPUs."""

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.ops.bias import add_summing_by_products


def test_the_gradient_is_the_sum_over_all_vectors(float64):
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=(3, 5, 4))) for _ in range(2))

    def weighted(x, bias):
        y = add_summing_by_products(x, bias)
        return (y * weights).sum(), y

    bias = jnp.arange(4.0)
    grads, y = jax.grad(weighted, (0, 1), has_aux=True)(x, bias)
    np.testing.assert_array_equal(y, x + bias)
    np.testing.assert_array_equal(grads[0], weights)
    np.testing.assert_allclose(grads[1], weights.sum((0, 1)), rtol=1e-12)


def test_thousands_of_bfloat16_vectors_are_summed_in_float32():
    x = jnp.zeros((4096, 2), jnp.bfloat16)
    grad = jax.grad(lambda bias: add_summing_by_products(x, bias).astype(jnp.float32).sum())
    found = grad(jnp.zeros(2, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), [4096, 4096])
