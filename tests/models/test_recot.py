"""Tests ReCoT: the hidden tokens, the compressor's input, and the parameters with gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import add_module

from vxlpro_jax.config.schema import DataConfig, DtsConfig, RecotConfig, TrainConfig
from vxlpro_jax.models import recot
from vxlpro_jax.sharding.params import spec_of
from vxlpro_jax.training.objectives.recot import recot_loss
from vxlpro_jax.utils import tree

OPTIONS = RecotConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, mask_ratio=(0.7, 0.7))
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def config(config):
    """A config whose grid is a third of the released one."""
    return dataclasses.replace(config, dts=DtsConfig(grid=8))


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 4, 66, 66, 3), np.uint8)


@functools.cache
def parameters(config, options=OPTIONS):
    """Returns parameters without zeros; some of the compressor's are initialised with zeros."""
    with jax.enable_x64(False):
        init = jax.jit(lambda key: recot.init_params(config, options=options, key=key))
        params = init(jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: np.asarray(x) + 0.02 * rng.standard_normal(x.shape), params)


def apply(config, params, method, options=OPTIONS):
    model = recot.Recot(config, options)
    return jax.jit(lambda p: model.apply({"params": p}, method=method))(params)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["sgm", "random", "tube", "motion"])
def test_every_policy_hides_its_share_and_restores_all(config, frames, policy):
    options = dataclasses.replace(OPTIONS, policy=policy)
    params = parameters(config, options)
    restored = apply(config, params, lambda m: m(m.features(frames), key=KEY), options)
    assert restored.predicted.shape == restored.targets.shape == (2, 4, 64, 64)
    assert restored.compressed.shape == (2, 64, 64)
    visible = np.asarray(restored.visible)
    assert set(np.unique(visible)) == {0.0, 1.0}
    np.testing.assert_array_equal((visible == 0).sum((1, 2)), 4 * int(0.7 * 64))
    assert ("temporal_query" in params["recot"]) == (policy == "sgm")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["released", "temporal"])
def test_what_is_hidden_does_not_reach_the_decoder(config, frames, layout):
    config = dataclasses.replace(config, dts=dataclasses.replace(config.dts, layout=layout))
    options = dataclasses.replace(OPTIONS, policy="random")
    params = parameters(config, options)
    features = apply(config, params, lambda m: m.features(frames), options)
    first = apply(config, params, lambda m: m(features, key=KEY), options)
    other = jnp.where(first.visible[..., None] == 1, features, features + 100.0)
    second = apply(config, params, lambda m: m(other, key=KEY), options)
    np.testing.assert_array_equal(first.visible, second.visible)
    np.testing.assert_array_equal(first.predicted, second.predicted)
    seen = jnp.where(first.visible[..., None] == 1, features + 1.0, features)
    third = apply(config, params, lambda m: m(seen, key=KEY), options)
    assert not np.allclose(first.predicted, third.predicted)


@pytest.mark.slow
def test_targets_are_normalised_tokens(config, frames):
    params = parameters(config)
    targets = apply(config, params, lambda m: m(m.features(frames), key=KEY)).targets
    np.testing.assert_allclose(targets.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(targets.var(-1), 1, rtol=1e-5)


@functools.partial(jax.jit, static_argnames="run")
def compiled_loss_and_grads(params, batch, *, run):
    return jax.value_and_grad(lambda p: recot_loss(p, batch, key=KEY, config=run).value)(params)


def loss_and_grads(config, params, frames, segments, options=OPTIONS):
    run = TrainConfig(
        objective="recot", model=config, recot=options, data=DataConfig(), compute_dtype="float64"
    )
    batch = {"frames": frames[None], "group_segments": np.asarray([segments])}
    return compiled_loss_and_grads(params, batch, run=run)


@pytest.mark.slow
def test_the_gradient_reaches_both_queries_and_every_layer_that_runs(config, frames):
    _, grads = loss_and_grads(config, parameters(config), frames, [1, 1])
    norms = {path: float(jnp.linalg.norm(g)) for path, g in tree.flatten(grads).items()}
    assert norms["recot/temporal_query/kernel"] > 1e-6
    assert norms["recot/spatial_query/kernel"] > 1e-6
    still = {path for path, norm in norms.items() if norm == 0}
    assert still == {"vision/post_ln/scale", "vision/post_ln/bias"}


@pytest.mark.slow
def test_padding_groups_change_nothing(config, frames):
    params = parameters(config)
    one, other = (np.concatenate([frames, extra[:1]]) for extra in (frames, 255 - frames))
    value, grads = loss_and_grads(config, params, one, [1, 1, 0])
    same_value, same_grads = loss_and_grads(config, params, other, [1, 1, 0])
    np.testing.assert_array_equal(value, same_value)
    jax.tree.map(np.testing.assert_array_equal, grads, same_grads)
    assert value != loss_and_grads(config, params, other, [1, 1, 1])[0]


DUMMY_POLICY = """
from vxlpro_jax.ops.token_masking import Policy


def scores(features, queries):
    return queries["dummy"](features).sum(-1)


POLICY = Policy(scores, queries=("dummy",))
"""


@pytest.mark.slow
def test_a_policy_is_added_by_one_file(config, frames, monkeypatch, tmp_path):
    """The policy has its own learned query, which has a sharding and gets a gradient."""
    policies = "vxlpro_jax.ops.mask_policies"
    add_module(monkeypatch, tmp_path, package=policies, name="dummy", source=DUMMY_POLICY)
    options = dataclasses.replace(OPTIONS, policy="dummy")
    params = parameters(config, options)
    assert spec_of("recot/dummy_query/kernel")
    _, grads = loss_and_grads(config, params, frames, [1, 1], options)
    assert jnp.linalg.norm(grads["recot"]["dummy_query"]["kernel"]) > 1e-6
