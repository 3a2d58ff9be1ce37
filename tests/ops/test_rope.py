"""Compares rotary embeddings with their definition by complex numbers in float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.ops.rope import rotate_full_width, rotate_heads

pytestmark = pytest.mark.usefixtures("float64")


def turns(positions, width, theta):
    """Returns exp(i p theta^(-2j/width)): [..., width/2]."""
    return np.exp(1j * positions[..., None] * theta ** (-np.arange(0, width, 2) / width))


def test_heads_rotate_channel_pairs_half_a_head_apart():
    rng = np.random.default_rng(0)
    x, positions = rng.standard_normal((2, 5, 3, 16)), rng.integers(0, 40_000, (2, 5))
    out = np.asarray(rotate_heads(x, positions=positions, theta=1e6))
    expected = (x[..., :8] + 1j * x[..., 8:]) * turns(positions, 16, 1e6)[:, :, None]
    np.testing.assert_allclose(out[..., :8] + 1j * out[..., 8:], expected, atol=1e-9)


def test_full_width_rotates_neighbouring_channels():
    rng = np.random.default_rng(0)
    x, positions = rng.standard_normal((2, 3, 7, 20)), rng.integers(0, 400_000, (2, 3, 7))
    out = np.asarray(rotate_full_width(x, positions=positions))
    expected = (x[..., 0::2] + 1j * x[..., 1::2]) * turns(positions, 20, 1e6)
    np.testing.assert_allclose(out[..., 0::2] + 1j * out[..., 1::2], expected, atol=1e-9)


def test_products_depend_on_distance_alone():
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((2, 1, 1, 1, 32))

    def product(i, j):
        a, b = (
            rotate_heads(x, positions=np.array([[at]]), theta=1e4) for x, at in ((q, i), (k, j))
        )
        return float((a * b).sum())

    np.testing.assert_allclose(product(1000, 1017), product(3, 20), rtol=1e-9)
    assert abs(product(3, 20) - product(3, 21)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("rotate", [rotate_heads, rotate_full_width])
def test_bfloat16_tells_neighbouring_far_positions_apart(rotate):
    x = jnp.ones((1, 2, 1, 8) if rotate is rotate_heads else (1, 2, 8), jnp.bfloat16)
    out = rotate(x, positions=jnp.array([[30_000, 30_001]]), theta=1e6)
    assert out.dtype == jnp.bfloat16
    exact = rotate(x.astype(jnp.float64), positions=jnp.array([[30_000, 30_001]]), theta=1e6)
    np.testing.assert_allclose(out.astype(np.float64), exact, atol=0.02)
    assert not np.array_equal(out[:, 0], out[:, 1])
