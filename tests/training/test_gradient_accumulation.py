"""A batch in parts has the gradients of the whole; each target counts once, in any part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MICRO
from sharding_driver import random_batch

from vxlpro_jax.config.schema import OptimConfig, RecotConfig, TrainConfig
from vxlpro_jax.training.objective import objective_of
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.state import TrainState
from vxlpro_jax.training.step import gradients, make_train_step
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.jit import jit

pytestmark = pytest.mark.slow

CONFIG = TrainConfig(
    model=dataclasses.replace(MICRO, vision=dataclasses.replace(MICRO.vision, image_size=28)),
    recot=RecotConfig(decoder_width=16, decoder_depth=1, decoder_heads=2),
    keep_ratio=(1.0, 1.0),
    compute_dtype="float64",
)
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def batch():
    """A batch whose parts have unequal numbers of targets; one of eight has none."""
    batch = random_batch(0)
    batch["labels"][1] = -100
    batch["labels"][5, :20] = -100
    return batch


def setup(objective):
    """Returns a loss in float64, and parameters."""
    found = objective_of(dataclasses.replace(CONFIG, objective=objective))
    params = tree.cast(jit(found.init_params)(jax.random.key(0)), "float64")
    return lambda params, batch, key: found.loss(params, batch, key=key), params


def run(loss_fn, params, batch, *, parts):
    return jit(lambda p, b: gradients(loss_fn, p, b, key=KEY, parts=parts))(params, batch)


@pytest.fixture(scope="module")
def answers(batch):
    """All tokens are kept, so nothing is random, and the parts compute the same as the whole."""
    with jax.enable_x64(True):
        loss_fn, params = setup("sft")
        found = {parts: run(loss_fn, params, batch, parts=parts) for parts in (1, 2, 8)}
        return jax.device_get(found)


@pytest.mark.parametrize("parts", [2, 8])
def test_gradients_are_those_of_the_whole(answers, parts):
    np.testing.assert_allclose(answers[parts].value, answers[1].value, rtol=1e-12)
    for path, expected in tree.flatten(answers[1].grads).items():
        found = tree.flatten(answers[parts].grads)[path]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("parts", [2, 8])
def test_counts_of_the_parts_add_up(answers, parts):
    for name in ("tokens", "frames"):
        assert answers[parts].metrics[name] == answers[1].metrics[name] > 0


@jax.enable_x64(True)
def test_hidden_tokens_weigh_alike_in_parts_and_whole(batch):
    """Every part draws its own masks; the expected sum is weighted by the hidden tokens."""
    loss_fn, params = setup("recot")
    found = run(loss_fn, params, batch, parts=2)

    def half(index):
        rows = jax.tree.map(lambda x: x[4 * index : 4 * index + 4], batch)

        def loss(params):
            found = loss_fn(params, rows, jax.random.fold_in(KEY, index))
            return found.value, found

        grads, found = jit(jax.grad(loss, has_aux=True))(params)
        return found.weight, (grads, found.value, found.metrics["hidden"])

    (weight, first), (other_weight, second) = half(0), half(1)
    expected = jax.tree.map(
        lambda a, b: (weight * a + other_weight * b) / (weight + other_weight), first, second
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
        (found.grads, found.value, found.metrics["hidden"]),
        expected,
    )


def test_bfloat16_parameters_keep_float32_second_moments():
    """Weights and momentum are bfloat16, second moments float32; the dtypes do not change."""
    config = dataclasses.replace(
        CONFIG,
        param_dtype="bfloat16",
        compute_dtype="bfloat16",
        grad_accum_steps=2,
        optim=OptimConfig(lr=1e-2, momentum_dtype="bfloat16"),
        total_steps=4,
    )
    plan = RunPlan(config)
    params = tree.cast(jit(plan.objective.init_params)(jax.random.key(0)), "bfloat16")
    state = TrainState.create(params, optimizer=plan.optimizer, seed=0)
    step, losses = jit(make_train_step(plan)), []
    for _ in range(4):
        before = jax.tree.map(lambda x: x.dtype, state)
        state, metrics = step(state, random_batch(0))
        losses.append(float(metrics["loss"]))
        assert jax.tree.map(lambda x: x.dtype, state) == before
    assert losses[-1] < losses[0]
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
    moments = {str(x.dtype) for x in jax.tree.leaves(state.opt_state) if x.ndim}
    assert moments == {"bfloat16", "float32"}
