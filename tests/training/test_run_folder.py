"""Tests run folders of earlier releases, and which fields may change when a run is resumed."""

import copy
import dataclasses
import json
import shutil

import pytest
from helpers import MICRO

from vxlpro_jax.config import resume, schema_table
from vxlpro_jax.config.schema import OptimConfig, ParamGroup, TrainConfig
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.training import run_folder
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.run_folder import resume_plan, write_workdir
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

# Another value for every text field; all other fields get another number.
WORDS = {
    "objective": "recot",
    "param_dtype": "bfloat16",
    "compute_dtype": "bfloat16",
    "optim.momentum_dtype": "bfloat16",
    "model.dts.layout": "temporal",
    "model.selector_gradient": "straight_through",
    "recot.policy": "tube",
}
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
    """Their state is in the checkpoints, which must be read into the same structure."""
    write_workdir(planned(TOWER, UNUSED).config, workdir=tmp_path)
    resumed = resume_plan(planned(TOWER), workdir=tmp_path)
    assert resumed.config.optim.groups == (TOWER, UNUSED)


def test_groups_that_match_may_not_go(tmp_path):
    write_workdir(planned(TOWER, UNUSED).config, workdir=tmp_path)
    with pytest.raises(InputError, match=r"another optim \(config.optim.groups was .* and is"):
        resume_plan(planned(UNUSED), workdir=tmp_path)


def test_the_tokenizer_may_move_but_not_change(tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    write_workdir(planned(TOWER, tokenizer=str(TINY_TOKENIZER)).config, workdir=run)
    shutil.copytree(TINY_TOKENIZER, moved)
    plan = planned(TOWER, tokenizer=str(moved))
    assert resume_plan(plan, workdir=run).config == plan.config
    (moved / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"another data \(config.data.tokenizer was .* and is"):
        resume_plan(plan, workdir=run)


# ---- Every field --------------------------------------------------------------------------------


def every_field():
    """Returns the paths of all fields in a run folder."""
    return [row.path for row in schema_table.rows() if row.path != "model.preset"]


def with_another(config, path):
    """Returns the config with another value of one field."""
    value = config
    for name in path.split("."):
        value = getattr(value, name)
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, str):
        other = WORDS.get(path, "other")
    elif path == "optim.groups":
        other = (ParamGroup(pattern="^dts/", lr_scale=0.5),)
    elif isinstance(value, tuple):
        other = (0.5, 0.6) if value else (4,)
    else:
        other = type(value)(value / 2) if isinstance(value, float) and value else value + 1
    return with_value(config, path.split("."), other)


def with_value(config, names, value):
    first, *rest = names
    if rest:
        value = with_value(getattr(config, first), rest, value)
    # Inconsistent values are refused before the folder is read.
    changed = copy.copy(config)
    object.__setattr__(changed, first, value)
    return changed


def test_the_declarations_name_fields_and_none_twice():
    assert set(every_field()) >= resume.FREE | resume.NOTED
    assert not resume.FREE & resume.NOTED


@pytest.mark.parametrize("path", every_field())
def test_every_field_is_allowed_or_named_with_its_values(path, tmp_path, capsys):
    config = TrainConfig(model=MICRO, init_from="start")
    changed = with_another(config, path)
    (change,) = resume.changes(config, changed)
    assert change.field == path
    text = str(change)
    assert f"config.{path} was " in text
    assert " and is " in text
    assert len(text) < 200
    run_folder.note_changes([change], workdir=tmp_path)
    out = capsys.readouterr().out
    assert (text in out and "--config.init_from=" in out) == (change.rule == "noted")
    if change.rule == "fixed":
        with pytest.raises(InputError, match=r"--config\.init_from="):
            run_folder.refuse_changes([change], workdir=tmp_path)
    else:
        run_folder.refuse_changes([change], workdir=tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_workers": 3, "seconds_per_file": 9.0, "bad_sample_quota": 0.5}, ""),
        ({"path": "moved.json", "video_root": "there"}, "config.data.path was 'a.json' and is 'mo"),
    ],
)
def test_where_data_are_and_how_they_are_read_may_change(change, said, tmp_path, capsys):
    write_workdir(planned(TOWER, path="a.json").config, workdir=tmp_path)
    plan = planned(TOWER, **{"path": "a.json"} | change)
    assert resume_plan(plan, workdir=tmp_path).config == plan.config
    out = capsys.readouterr().out
    assert said in out
    assert bool(said) == bool(out)


def test_the_learning_rate_may_be_lowered_as_the_message_of_a_diverged_run_says(tmp_path, capsys):
    plan = planned(TOWER, UNUSED)
    write_workdir(plan.config, workdir=tmp_path)
    optim = dataclasses.replace(plan.config.optim, lr=1e-5, clip_norm=0.5, groups=(TOWER,))
    resumed = resume_plan(plan.replace(optim=optim), workdir=tmp_path).config.optim
    assert (resumed.lr, resumed.clip_norm, resumed.groups) == (1e-5, 0.5, (TOWER, UNUSED))
    assert "config.optim.lr was 0.001 and is 1e-05" in capsys.readouterr().out
