"""Tests schedule, groups, decay and clipping on small trees with the model's paths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import MICRO

from vxlpro_jax.config.schema import OptimConfig, ParamGroup
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.training import optimizer as optimizer_lib
from vxlpro_jax.utils import tree

UNUSED = ("vision/post_ln/scale", "selector/window/v/kernel")
NO_DECAY = ("vision/layers/ln1/scale", "projector/fc1/bias", "dts/block0/temporal/rel_k")
DECAY = ("projector/fc1/kernel", "decoder/embed", "decoder/layers/mlp/up")


def params_of(paths):
    return tree.unflatten({path: jnp.full((2, 3), 2.0) for path in paths})


def run(config, params, *, grads, steps=1, total_steps=10):
    """Returns the parameters after some steps with the same gradients."""
    optimizer = optimizer_lib.optimizer(config, total_steps=total_steps)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return tree.flatten(params)


def zeros_like(params):
    return jax.tree.map(jnp.zeros_like, params)


# ---- Schedule -----------------------------------------------------------------------------------


def test_schedule_warms_up_then_falls_as_a_cosine():
    rate = optimizer_lib.schedule(OptimConfig(lr=2.0, warmup=0.1), total_steps=100)
    rates = np.array([rate(step) for step in range(101)])
    np.testing.assert_allclose(rates[:11], 0.2 + 1.8 * np.arange(11) / 10, rtol=1e-6)
    cosine = 1 + np.cos(np.pi * np.arange(91) / 90)
    np.testing.assert_allclose(rates[10:], cosine, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("warmup", "total_steps"), [(0.0, 10), (0.03, 5), (1.0, 4), (0.5, 1)])
def test_no_step_of_a_short_run_has_rate_zero(warmup, total_steps):
    rate = optimizer_lib.schedule(OptimConfig(lr=1.0, warmup=warmup), total_steps=total_steps)
    rates = [float(rate(step)) for step in range(total_steps)]
    assert all(0 < value <= 1 for value in rates)


# ---- Decay and groups ---------------------------------------------------------------------------


def test_only_matrices_decay():
    params = params_of(DECAY + NO_DECAY + UNUSED)
    config = OptimConfig(lr=0.1, warmup=0.0, weight_decay=0.5)
    after = run(config, params, grads=zeros_like(params))
    for path, value in after.items():
        expected = 2.0 * (1 - 0.1 * 0.5) if path in DECAY else 2.0
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=path)


@pytest.mark.slow
def test_every_vector_and_table_of_the_model_is_spared_decay():
    """In the model's tree, only matrices of products and the embedding decay."""
    params = jax.tree.map(lambda x: jnp.ones(x.shape[:1]), abstract_params(MICRO))
    config = OptimConfig(lr=0.1, warmup=0.0, weight_decay=1.0)
    after = run(config, params, grads=zeros_like(params))
    decayed = {path for path, value in after.items() if np.any(np.asarray(value) != 1)}
    matrices = ("decoder/embed", "mlp/gate", "mlp/up", "mlp/down")
    expected = {path for path in after if path.endswith(("kernel", *matrices))}
    assert decayed == expected - {"selector/window/v/kernel"}


def test_unused_parameters_never_change():
    params = params_of(UNUSED + DECAY)
    config = OptimConfig(lr=0.1, weight_decay=1.0, groups=(ParamGroup(pattern="", lr_scale=9.0),))
    after = run(config, params, grads=jax.tree.map(jnp.ones_like, params), steps=3)
    for path in UNUSED:
        np.testing.assert_array_equal(after[path], 2.0)
    for path in DECAY:
        assert np.all(after[path] < 2.0)


def test_groups_scale_the_rate_and_the_first_match_wins():
    params = params_of(DECAY)
    grads = jax.tree.map(jnp.ones_like, params)
    groups = (
        ParamGroup(pattern="mlp/", lr_scale=0.0),
        ParamGroup(pattern="^decoder/", lr_scale=0.25),
        ParamGroup(pattern="embed", lr_scale=100.0),
    )
    config = OptimConfig(lr=0.1, warmup=0.0, weight_decay=0.3, clip_norm=1e9)
    plain = run(config, params, grads=grads)
    grouped = run(dataclasses.replace(config, groups=groups), params, grads=grads)
    moved = {path: np.asarray(plain[path] - 2.0) for path in DECAY}
    scales = {DECAY[0]: 1.0, DECAY[1]: 0.25, DECAY[2]: 0.0}
    for path, scale in scales.items():
        np.testing.assert_allclose(grouped[path] - 2.0, scale * moved[path], rtol=1e-5)
    np.testing.assert_array_equal(grouped[DECAY[2]], 2.0)


def test_muon_turns_each_matrix_of_a_stack_equally_in_all_directions():
    """For any scale and spectrum of the gradient, the update is orthogonal with an rms of 0.2."""
    rng = np.random.default_rng(0)
    shape = (2, 6, 24)
    grads = rng.standard_normal(shape) * np.array([1.0, 1e-3])[:, None, None]
    grads *= np.geomspace(1, 10, 6)[:, None]
    params = tree.unflatten({DECAY[2]: jnp.zeros(shape)})
    groups = (ParamGroup(pattern="^decoder/", lr_scale=0.5, rule="muon"),)
    config = OptimConfig(lr=0.1, warmup=0.0, clip_norm=1e9, groups=groups)
    moved = run(config, params, grads=tree.unflatten({DECAY[2]: jnp.asarray(grads)}))[DECAY[2]]
    updates = np.asarray(moved) / (0.1 * 0.5)
    # Newton-Schulz iterations of Muon leave singular values between 0.7 and 1.2.
    values = np.linalg.svd(updates, compute_uv=False) / (0.2 * np.sqrt(24))
    assert np.all((values > 0.65) & (values < 1.25))
    descends = np.einsum("bij,bij->b", updates, grads)
    assert np.all(descends < 0)


def test_vectors_and_tables_of_a_muon_group_stay_with_adamw():
    paths = (*NO_DECAY, "decoder/embed")
    rng = np.random.default_rng(0)
    grads = tree.unflatten({path: jnp.asarray(rng.standard_normal((2, 3))) for path in paths})
    groups = (ParamGroup(pattern="", rule="muon"),)
    muon = run(OptimConfig(groups=groups), params_of(paths), grads=grads, steps=3)
    adamw = run(OptimConfig(), params_of(paths), grads=grads, steps=3)
    for path in paths:
        np.testing.assert_array_equal(muon[path], adamw[path])


def test_frozen_leaves_hold_no_state():
    params = params_of(DECAY)
    config = OptimConfig(groups=(ParamGroup(pattern="^decoder/", lr_scale=0.0),))
    state = optimizer_lib.optimizer(config, total_steps=10).init(params)
    arrays = [x for x in jax.tree.leaves(state) if x.ndim]
    assert len(arrays) == 2  # These are both moments of the one trained leaf.


# ---- Clipping -----------------------------------------------------------------------------------


def test_clip_bounds_the_norm_of_trained_gradients():
    """Frozen gradients, however large, must not shrink the other gradients."""
    params = params_of((DECAY[0], DECAY[1]))
    groups = (ParamGroup(pattern="embed", lr_scale=0.0),)
    config = OptimConfig(lr=1.0, warmup=0.0, clip_norm=1.0, eps=1.0, groups=groups)

    def moved(scale):
        grads = tree.unflatten({DECAY[0]: jnp.full((2, 3), scale), DECAY[1]: jnp.full((2, 3), 1e6)})
        return np.asarray(run(config, params, grads=grads)[DECAY[0]] - 2.0)

    clipped = 1 / np.sqrt(6)  # One Adam step with eps 1 for a gradient of norm 1.
    np.testing.assert_allclose(moved(100.0), -clipped / (clipped + 1), rtol=1e-5)
    np.testing.assert_allclose(moved(0.1), -0.1 / 1.1, rtol=1e-5)


def test_trained_only_leaves_out_frozen_and_unused():
    config = OptimConfig(groups=(ParamGroup(pattern="^projector/", lr_scale=0.0),))
    grads = params_of(DECAY + UNUSED)
    assert len(optimizer_lib.trained_only(grads, config=config)) == 2


def test_no_gradient_is_computed_for_frozen_and_unused():
    config = OptimConfig(groups=(ParamGroup(pattern="^decoder/", lr_scale=0.0),))
    params = params_of((*DECAY, *UNUSED))

    def total(params):
        stopped = optimizer_lib.stop_frozen(params, config=config)
        return sum(x.sum() for x in jax.tree.leaves(stopped))

    grads = tree.flatten(jax.grad(total)(params))
    moved = {path for path, grad in grads.items() if np.any(grad)}
    assert moved == {"projector/fc1/kernel"}


def test_adam_with_decay_equals_the_definition():
    rng = np.random.default_rng(0)
    weight, grads = rng.standard_normal((4, 3)), rng.standard_normal((5, 4, 3))
    config = OptimConfig(lr=0.01, warmup=0.2, b1=0.8, b2=0.95, weight_decay=0.1, clip_norm=1e9)
    optimizer = optimizer_lib.optimizer(config, total_steps=5)
    rate = optimizer_lib.schedule(config, total_steps=5)
    params = tree.unflatten({DECAY[0]: jnp.asarray(weight, jnp.float32)})
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    first, second = np.zeros((2, 4, 3))
    for step, grad in enumerate(grads, 1):
        as_tree = functools.partial(jax.tree.map, lambda _, g=grad: jnp.asarray(g, jnp.float32))
        updates, state = update(as_tree(params), state, params)
        params = optax.apply_updates(params, updates)
        first, second = 0.8 * first + 0.2 * grad, 0.95 * second + 0.05 * grad**2
        adam = first / (1 - 0.8**step) / (np.sqrt(second / (1 - 0.95**step)) + 1e-8)
        weight = weight - float(rate(step - 1)) * (adam + 0.1 * weight)
    np.testing.assert_allclose(tree.flatten(params)[DECAY[0]], weight, rtol=1e-4)
