"""Compares the gated hidden layer with its formula; `test_sharding` tests its form on meshes."""

import jax
import numpy as np
import pytest

from vxlpro_jax.ops.swiglu import swiglu

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("leading", [(), (1, 1), (2, 7), (2, 3, 4)])
def test_swiglu_equals_its_definition(leading):
    x = RNG.standard_normal((*leading, 6))
    gate, up, down = (RNG.standard_normal(shape) for shape in ((10, 6), (10, 6), (6, 10)))
    with jax.enable_x64(True):
        out = swiglu(x, gate=gate, up=up, down=down)
    hidden = x @ gate.T
    expected = (hidden / (1 + np.exp(-hidden)) * (x @ up.T)) @ down.T
    np.testing.assert_allclose(out, expected, atol=1e-12)
