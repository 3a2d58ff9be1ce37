"""Tests products of few vectors, which are filled up with zeros."""

import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.ops.full_rows import in_eight_rows


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 2, 3), (8, 3), (3,)])
def test_zeros_change_nothing(shape):
    rng = np.random.default_rng(0)
    x, matrix = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=(3, 5)))
    seen = []

    def product(rows):
        seen.append(rows.shape)
        return rows @ matrix

    np.testing.assert_allclose(in_eight_rows(product, x), x @ matrix, rtol=1e-5)
    assert seen == [(8, 3)]
