"""Tests what layers keep for the backward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vxlpro_jax.config.schema import Remat
from vxlpro_jax.models.remat import remat
from vxlpro_jax.ops.attention.dispatch import attention

VALUES = ("none", "elementwise", "all_but_attention", "all")


class Layer(nn.Module):
    """Attention between two products, and an activation."""

    @nn.compact
    def __call__(self, x, _):
        q, k, v = (nn.Dense(8, name=name)(x).reshape(2, 6, 2, 4) for name in "qkv")
        out = attention(q, k, v, backend="chunked").reshape(x.shape)
        return x + nn.Dense(8, name="out")(nn.gelu(out)), None


def loss(params, x, *, recomputed: Remat):
    layers = nn.scan(
        remat(Layer, recomputed=recomputed),
        variable_axes={"params": 0},
        length=3,
        split_rngs={"params": True},
    )
    return jnp.square(layers().apply({"params": params}, x, None)[0]).sum()


@pytest.fixture(scope="module")
def inputs():
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    layers = nn.scan(Layer, variable_axes={"params": 0}, length=3, split_rngs={"params": True})
    return layers().init(jax.random.key(1), x, None)["params"], x


@pytest.mark.parametrize("value", VALUES)
def test_gradients_do_not_depend_on_it(inputs, value):
    expected = jax.grad(functools.partial(loss, recomputed="none"))(*inputs)
    found = jax.grad(functools.partial(loss, recomputed=value))(*inputs)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected
    )


def test_each_value_computes_more_products_again(inputs):
    def products(value):
        program = jax.make_jaxpr(jax.grad(functools.partial(loss, recomputed=value)))(*inputs)
        return str(program).count("dot_general")

    none, elementwise, all_but_attention, everything = map(products, VALUES)
    assert none == elementwise < all_but_attention < everything
