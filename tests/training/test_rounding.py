"""Tests that parameters in bfloat16 follow updates that are smaller than their precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vxlpro_jax.config.schema import OptimConfig
from vxlpro_jax.training import rounding
from vxlpro_jax.training.optimizer import optimizer

STEPS = 200


def moved(how, *, dtype, rate=1e-5):
    """Returns how far each weight moves in 200 steps of AdamW whose gradients keep their sign."""
    config = OptimConfig(lr=rate, warmup=0.0, rounding=how)
    update = optimizer(config, total_steps=10**6).update
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.normal(size=(64, 256)) * 0.02, dtype)
    params = {"decoder": {"kernel": start}}
    grads = jax.tree.map(lambda x: jnp.asarray(rng.choice([-1.0, 1.0], x.shape), dtype), params)
    state = optimizer(config, total_steps=10**6).init(params)

    @jax.jit
    def step(params, state, index):
        updates, state = update(grads, state, params)
        if how == "stochastic":
            key = jax.random.fold_in(jax.random.key(0), index)
            return rounding.apply_updates(params, updates, key=key), state
        return optax.apply_updates(params, updates), state

    for index in range(STEPS):
        params, state = step(params, state, index)
    assert params["decoder"]["kernel"].dtype == dtype
    signs = -np.asarray(grads["decoder"]["kernel"], np.float64)
    new, old = (np.asarray(x, np.float64) for x in (params["decoder"]["kernel"], start))
    return (new - old) * signs


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("how", ["stochastic", "master"])
def test_weights_move_as_far_as_in_float32(how, dtype):
    wanted = moved("nearest", dtype=jnp.float32)
    found = moved(how, dtype=dtype)
    assert 0.95 < found.mean() / wanted.mean() < 1.05
    assert (found != 0).mean() > 0.95


def test_rounding_to_the_nearest_loses_most_of_the_movement():
    wanted, found = (moved("nearest", dtype=x) for x in (jnp.float32, jnp.bfloat16))
    assert found.mean() / wanted.mean() < 0.3


def test_in_float32_all_are_the_same():
    first, *others = (moved(how, dtype=jnp.float32) for how in ("nearest", "stochastic", "master"))
    np.testing.assert_array_equal(first, others[0])
    np.testing.assert_allclose(first, others[1], atol=1e-9)


@pytest.mark.parametrize("value", [1.0, -0.3, 1e-30, 3e38, 0.0])
def test_random_rounding_is_right_on_average_and_takes_a_neighbour(value):
    x = jnp.full(40_000, value * 1.0031, jnp.float32)
    found = rounding.round_at_random(x, jnp.bfloat16, key=jax.random.key(1))
    exact = float(x[0])
    numbers = np.unique(np.asarray(found, np.float64))
    assert len(numbers) <= 2
    assert numbers.min() <= exact <= numbers.max()
    step = abs(exact) * float(jnp.finfo(jnp.bfloat16).eps)
    assert abs(np.asarray(found, np.float64).mean() - exact) < 0.02 * step + 1e-300


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_numbers_of_the_dtype_and_those_that_are_not_finite_stay(dtype):
    x = jnp.asarray([0.0, 1.0, -2.5, 65_280.0, jnp.inf, -jnp.inf, jnp.nan], dtype)
    found = rounding.round_at_random(x.astype(jnp.float32), dtype, key=jax.random.key(0))
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(x, np.float32))
