"""Compares the time-halving convolution with XLA's on an explicitly padded input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.ops.conv3d import by_convolution, by_products, halve_time

pytestmark = pytest.mark.usefixtures("float64")


def direct(x, kernel, bias):
    padded = jnp.pad(x, ((0, 0), (1, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    out = jax.lax.conv_general_dilated(
        padded,
        kernel,
        window_strides=(2, 1, 1),
        padding="VALID",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return out + bias


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 4, 6])
def test_values_and_gradients_equal_the_definition(slots):
    rng = np.random.default_rng(slots)
    x = rng.standard_normal((2, slots, 5, 3, 4))
    kernel, bias = rng.standard_normal((3, 3, 3, 4, 6)), rng.standard_normal(6)
    probe = rng.standard_normal((2, slots // 2, 5, 3, 6))

    def run(convolve):
        return jax.value_and_grad(lambda *a: (convolve(*a) * probe).sum(), argnums=(0, 1, 2))(
            x, kernel, bias
        )

    ours = halve_time(x, kernel=kernel, bias=bias)
    np.testing.assert_allclose(ours, direct(x, kernel, bias), atol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11),
        run(lambda x, k, b: halve_time(x, kernel=k, bias=b)),
        run(direct),
    )


@pytest.mark.slow
@pytest.mark.parametrize("taps", [2, 3])
def test_both_forms_are_the_same_convolution(taps):
    rng = np.random.default_rng(taps)
    x = jnp.asarray(rng.standard_normal((2, taps + 2, 6, 5, 4)))
    kernel = jnp.asarray(rng.standard_normal((taps, 3, 3, 4, 7)))

    def run(convolve):
        return jax.value_and_grad(lambda *a: jnp.sin(convolve(*a)).sum(), argnums=(0, 1))(x, kernel)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11),
        run(by_products),
        run(by_convolution),
    )
