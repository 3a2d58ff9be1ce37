"""Compares normalisations with float64 formulas, and tests their precision in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.ops.norms import group_norm, layer_norm, layer_norm_by_products, rms_norm

pytestmark = pytest.mark.usefixtures("float64")

RNG = np.random.default_rng(0)
SCALE, BIAS = RNG.standard_normal((2, 64))


def test_layer_norm_equals_its_definition():
    x = RNG.normal(3, 2, (2, 5, 64))
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    out = layer_norm(x, scale=SCALE, bias=BIAS, eps=1e-6)
    np.testing.assert_allclose(out, expected * SCALE + BIAS, atol=1e-12)


def test_rms_norm_equals_its_definition():
    x = RNG.normal(3, 2, (2, 5, 64))
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * SCALE
    np.testing.assert_allclose(rms_norm(x, scale=SCALE, eps=1e-6), expected, atol=1e-12)


@pytest.mark.parametrize("axes", [(1, 2), (2,)])
def test_group_norm_pools_over_its_axes_and_group(axes):
    x = RNG.normal(3, 2, (2, 5, 7, 64))
    out = np.asarray(group_norm(x, scale=SCALE, bias=BIAS, axes=axes, groups=16))
    for sample, group in np.ndindex(2, 16):
        channels = slice(4 * group, 4 * group + 4)
        rows = [np.s_[sample]] if axes == (1, 2) else [np.s_[sample, row] for row in range(5)]
        for row in rows:
            part = x[row][..., channels]
            expected = (part - part.mean()) / np.sqrt(part.var() + 1e-6)
            expected = expected * SCALE[channels] + BIAS[channels]
            np.testing.assert_allclose(out[row][..., channels], expected, atol=1e-12)


@pytest.mark.parametrize("norm", ["layer", "rms", "group"])
def test_bfloat16_is_computed_in_float32(norm):
    """With a mean of 300, a variance computed in bfloat16 would be lost."""
    x = jnp.asarray(RNG.normal(300, 4, (1, 256, 64)), jnp.bfloat16)
    ones, none = jnp.ones(64, jnp.bfloat16), jnp.zeros(64, jnp.bfloat16)
    call = {
        "layer": lambda x, s, b: layer_norm(x, scale=s, bias=b, eps=1e-6),
        "rms": lambda x, s, b: rms_norm(x, scale=s, eps=1e-6),
        "group": lambda x, s, b: group_norm(x, scale=s, bias=b, axes=(1,)),
    }[norm]
    out = call(x, ones, none)
    assert out.dtype == jnp.bfloat16
    exact = call(x.astype(jnp.float64), ones.astype(jnp.float64), none.astype(jnp.float64))
    np.testing.assert_allclose(out.astype(np.float64), exact, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_by_products_change_neither_layer_norm_nor_its_gradients(dtype, float64):
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=(3, 5, 16)), dtype) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(size=16), dtype) for _ in range(2))

    def weighted(function):
        return jax.value_and_grad(lambda *inputs: (function(*inputs) * weights).sum(), (0, 1, 2))

    found = weighted(lambda x, s, b: layer_norm_by_products(x, s, b, 1e-6))(x, scale, bias)
    expected = weighted(lambda x, s, b: layer_norm(x, scale=s, bias=b, eps=1e-6))(x, scale, bias)
    limit = 1e-4 if dtype == "float32" else 1e-11
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=limit, atol=limit), found, expected
    )
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
