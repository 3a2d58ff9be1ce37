"""Folders of runs made by earlier releases, and what may change when a run is resumed."""

import dataclasses
import json
import shutil

import pytest
from helpers import MICRO

from vxlpro_jax.config.schema import OptimConfig, ParamGroup, TrainConfig
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.run_folder import resume_plan, write_workdir
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

TOWER = ParamGroup(pattern="^vision/", lr_scale=0.0)
UNUSED = ParamGroup(pattern="^nothing/", lr_scale=9.0, rule="muon")


def planned(*groups, **data):
    config = TrainConfig(model=MICRO, objective="recot", optim=OptimConfig(groups=groups))
    return RunPlan(dataclasses.replace(config, data=dataclasses.replace(config.data, **data)))


def test_names_of_earlier_releases_are_read(tmp_path):
    plan = planned(TOWER)
    write_workdir(plan.config, workdir=tmp_path)
    values = json.loads((tmp_path / "train_config.json").read_text())
    values["task"] = values.pop("objective")
    values["accumulate"] = values.pop("grad_accum_steps")
    values["data"]["workdir_cache"] = values["data"].pop("cache_dir")
    (tmp_path / "train_config.json").write_text(json.dumps(values))
    assert resume_plan(plan, workdir=tmp_path).config == plan.config


def test_groups_that_match_nothing_may_go_but_stay_in_the_optimizer(tmp_path):
    """Their rules have state in the checkpoints, which must be read into the same structure."""
    write_workdir(planned(TOWER, UNUSED).config, workdir=tmp_path)
    resumed = resume_plan(planned(TOWER), workdir=tmp_path)
    assert resumed.config.optim.groups == (TOWER, UNUSED)


def test_groups_that_match_may_not_go(tmp_path):
    write_workdir(planned(TOWER, UNUSED).config, workdir=tmp_path)
    with pytest.raises(InputError, match="another optim"):
        resume_plan(planned(UNUSED), workdir=tmp_path)


def test_the_tokenizer_may_move_but_not_change(tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    write_workdir(planned(TOWER, tokenizer=str(TINY_TOKENIZER)).config, workdir=run)
    shutil.copytree(TINY_TOKENIZER, moved)
    plan = planned(TOWER, tokenizer=str(moved))
    assert resume_plan(plan, workdir=run).config == plan.config
    (moved / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="another data"):
        resume_plan(plan, workdir=run)
