"""Parts: what is computed a few at a time equals the whole, and no more exists at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from vxlpro_jax.ops.parts import map_parts

WIDTH = 64


def wide(x, weights):
    """[f, 3] -> [f, 2] through something wide."""
    return jnp.tanh(x @ weights)[:, :2] * x[:, :2]


def given(frames):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(frames, 3))), jnp.asarray(rng.normal(size=(3, WIDTH)))


@pytest.mark.parametrize(("frames", "at_once"), [(12, 0), (12, 12), (12, 5), (7, 3), (1, 1)])
def test_values_and_gradients_are_those_of_the_whole(frames, at_once):
    x, weights = given(frames)

    def loss(x, weights, at_once):
        y = map_parts(lambda part: wide(part, weights), x, at_once=at_once)
        return (y * jnp.arange(frames)[:, None]).sum(), y

    (_, parts), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, weights, at_once)
    (_, whole), expected = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, weights, 0)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, expected
    )


@pytest.mark.parametrize(("at_once", "most"), [(0, 12), (6, 6), (5, 4), (1, 1)])
def test_forward_and_backward_hold_no_more_at_once(at_once, most):
    x, weights = given(12)

    def loss(x):
        return map_parts(lambda part: wide(part, weights), x, at_once=at_once).sum()

    def wide_rows(jaxpr):
        for equation in jaxpr.eqns:
            for var in equation.outvars:
                if var.aval.ndim and var.aval.shape[-1] == WIDTH:
                    yield var.aval.size // WIDTH
            for inner in jaxprs_in_params(equation.params):
                yield from wide_rows(inner)

    assert max(wide_rows(jax.make_jaxpr(jax.grad(loss))(x).jaxpr)) == most
