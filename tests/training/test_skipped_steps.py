"""Gradients that are not finite change nothing, are counted, and several in a row end the run.

The runs use a special objective, whose gradients are not finite at given steps.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import write_dataset
from mean_objective import mean_config

from vxlpro_jax.train import train
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.state import TrainState
from vxlpro_jax.training.step import make_train_step
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.jit import jit


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(data, tmp_path):
    """Makes the config of a run whose gradients at the steps `bad` are `fault`."""

    def build(*bad, fault="jnp.nan", **changes):
        config = mean_config(tmp_path, data=data, bad=bad, fault=fault)
        return dataclasses.replace(config, **changes)

    return build


def rows(workdir, name="metrics.jsonl"):
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


# ---- The step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["jnp.nan", "jnp.inf", "-jnp.inf"])
def test_a_skipped_step_changes_nothing_but_its_number(config, fault):
    plan = RunPlan(config(2, fault=fault))
    params = plan.fresh_params(jax.random.key(0))
    state = TrainState.create(params, optimizer=plan.optimizer, seed=0)
    batch = {
        "frames": jnp.full((2, 2, 4, 56, 56, 3), 128, jnp.uint8),
        "group_segments": jnp.ones((2, 2), jnp.int32),
        "labels": jnp.zeros((2, 0), jnp.int32),
        "token_segments": jnp.zeros((2, 0), jnp.int32),
    }
    step, states, rates = jit(make_train_step(plan)), [state], []
    for _ in range(3):
        state, metrics = step(states[-1], batch)
        states.append(state)
        rates.append(float(metrics["lr"]))
    one, two, three = (jax.tree.leaves((x.params, x.opt_state)) for x in states[1:])
    for before, after in zip(one, two, strict=True):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(two, three, strict=True))
    assert [int(x.step) for x in states] == [0, 1, 2, 3]
    assert [int(x.skipped_steps) for x in states] == [0, 0, 1, 1]
    assert rates[1] == rates[2] < rates[0]


# ---- The run ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_single_steps_are_skipped_counted_and_named(config, tmp_path, no_mesh, capsys):
    run = tmp_path / "run"
    assert train(config(2, 3, 5, 8), workdir=run) == 0
    table = rows(run)
    assert [row["skipped_steps"] for row in table] == [0, 1, 2, 2, 3, 3, 3, 4]
    assert [row["step"] for row in table if row["loss"] is None] == [2, 3, 5, 8]
    named = rows(run, "skipped_steps.jsonl")
    assert [entry["step"] for entry in named] == [2, 3, 5, 8]
    assert all(entry["files"] and entry["loss"] is None for entry in named)
    out = capsys.readouterr().out
    assert "Step 5 is skipped, its gradients are not finite: " in out
    assert named[2]["files"][0] in out
    assert saved(run)[-1] == 8


@pytest.mark.slow
def test_a_few_in_a_row_end_the_run_and_none_of_them_is_saved(config, tmp_path, no_mesh):
    run = tmp_path / "run"
    with pytest.raises(InputError, match=r"of 3 steps in a row .* step 5 ") as caught:
        train(config(3, 4, 5, log_every=100), workdir=run)
    for file in rows(run, "skipped_steps.jsonl")[-1]["files"]:
        assert file in str(caught.value)
    assert "optim.lr" in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 450
    assert saved(run) == [1, 2]
    assert [row["skipped_steps"] for row in rows(run)] == [0, 0, 1, 2, 3]


@pytest.mark.slow
def test_a_run_without_any_update_is_not_done(config, tmp_path, no_mesh):
    with pytest.raises(InputError, match="of 2 steps in a row"):
        train(config(1, 2, total_steps=2), workdir=tmp_path / "run")


@pytest.mark.slow
def test_a_resumed_run_goes_on_counting(config, tmp_path, no_mesh):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config(2, 4), workdir=whole)
    with pytest.raises(InputError):
        train(config(2, 4, 5, 6), workdir=parts)
    train(config(2, 4), workdir=parts)
    exact = ("step", "loss", "lr", "grad_norm", "skipped_steps")
    ours, theirs = ([[row[key] for key in exact] for row in rows(x)] for x in (parts, whole))
    assert ours == theirs
