"""Tests the list of trained parts, and patterns of parameter groups that match nothing."""

import importlib

import jax.numpy as jnp
import pytest
from helpers import MICRO

from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.config.schema import OptimConfig, ParamGroup, TrainConfig
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.trained_parts import (
    TrainedPart,
    check_groups,
    parts_table,
    trained_parts,
)
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

PARAMS = tree.unflatten(
    {
        "vision/layers/attn/q/kernel": jnp.zeros((2, 3)),
        "vision/post_ln/scale": jnp.zeros(3),
        "decoder/embed": jnp.zeros((5, 2)),
        "decoder/layers/attn/q/kernel": jnp.zeros((1, 2, 4)),
    }
)


def groups(*patterns):
    return OptimConfig(groups=tuple(ParamGroup(pattern=pattern) for pattern in patterns))


def test_parts_are_counted_by_how_they_are_treated():
    config = OptimConfig(
        groups=(
            ParamGroup(pattern="^decoder/layers", lr_scale=9.0, rule="muon"),
            ParamGroup(pattern="^vision/", lr_scale=0.0),
        )
    )
    parts = trained_parts(PARAMS, config=config)
    assert parts == [
        TrainedPart("vision", 9, 0.0, ""),
        TrainedPart("decoder", 10, 1.0, "adamw"),
        TrainedPart("decoder", 8, 9.0, "muon"),
    ]
    assert parts_table(parts).splitlines() == [
        "part     parameters  learning rate",
        "vision            9  frozen",
        "decoder          10  1 x, adamw",
        "decoder           8  9 x, muon",
        "total            27  18 trained",
    ]


def test_unused_parameters_count_as_frozen():
    parts = trained_parts(PARAMS, config=OptimConfig())
    assert TrainedPart("vision", 3, 0.0, "") in parts
    assert TrainedPart("vision", 6, 1.0, "adamw") in parts


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("^visoin/", r"pattern '\^visoin/' matches no parameter: did you mean 'vision'"),
        ("^decoder/layer/", "matches no parameter: did you mean 'decoder/layers'"),
        ("^zzz/", "matches no parameter: known are decoder, vision"),
        ("(", "pattern '\\(' is not a regular expression"),
    ],
)
def test_patterns_that_match_nothing_are_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        check_groups(PARAMS, config=groups("^vision/", pattern))


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3", "stage3_long"])
@pytest.mark.parametrize("preset", ["tiny", "3b"])
def test_every_pattern_of_the_shipped_configs_matches(stage, preset):
    values = importlib.import_module(f"configs.{stage}").get_config(preset).to_dict()
    plan = RunPlan(from_mapping(TrainConfig, values))
    check_groups(plan.param_shapes, config=plan.config.optim)


def test_frozen_branches_are_those_of_which_nothing_learns():
    config = OptimConfig(groups=(ParamGroup(pattern="^(vision|dts/block0)/", lr_scale=0.0),))
    plan = RunPlan(TrainConfig(model=MICRO, optim=config))
    assert plan.frozen == {"vision"}
