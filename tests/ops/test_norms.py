"""Compares normalisations with float64 formulas, and tests their precision in bfloat16."""

import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.ops.norms import group_norm, layer_norm, rms_norm

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
