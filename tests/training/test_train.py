"""Tests training end to end on real files: kills and resumption, frozen groups, refusals."""

import dataclasses
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import MICRO, ROOT, python, write_clip, write_dataset
from training_driver import STEPS, run_config

from vxlpro_jax.checkpoints import params
from vxlpro_jax.config.schema import (
    PRESETS,
    DataConfig,
    DtsConfig,
    MeshConfig,
    OptimConfig,
    ParamGroup,
    RecotConfig,
    TrainConfig,
)
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.sharding import mesh
from vxlpro_jax.train import train
from vxlpro_jax.training import optimizer as optimizer_lib
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.run_folder import resume_plan, write_workdir
from vxlpro_jax.training.setup import announce, resolve
from vxlpro_jax.training.state import abstract_state, initial_state
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parents[1] / "support" / "training_driver.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """Starts a training process; one compilation serves all of them."""
    compiled = tmp_path_factory.mktemp("compiled")

    def build(workdir):
        return python(
            DRIVER,
            workdir,
            data,
            PYTHONPATH=f"{ROOT}:{DRIVER.parent}",
            JAX_COMPILATION_CACHE_DIR=str(compiled),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        )

    return build


def finish(process):
    out, error = process.communicate()
    assert process.returncode == 0, error
    return out


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """The folder of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    finish(start(workdir))
    return workdir


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def params_at(workdir, step):
    return tree.flatten(params.read_params(workdir / "checkpoints" / str(step) / "params"))


# ---- A whole run --------------------------------------------------------------------------------


def test_loss_falls(finished):
    losses = [row["loss"] for row in rows(finished)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(np.isfinite(losses))


def test_metrics_have_one_row_per_step(finished, data):
    config = run_config(data)
    table = rows(finished)
    assert [row["step"] for row in table] == list(range(1, STEPS + 1))
    schedule = optimizer_lib.schedule(config.optim, total_steps=STEPS)
    for row in table:
        np.testing.assert_allclose(row["lr"], schedule(row["step"] - 1), rtol=1e-4)
        # Clips of 3 and 8 frames and a picture of one crop fill 1, 2 and 1 groups of four.
        assert row["frames"] == 16
        assert row["grad_norm"] > 0
        assert row["step_seconds"] > 0


def test_run_folder_holds_config_tokenizer_checkpoints_and_curves(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.json",
        "tokenizer.json",
        "train_config.json",
        "checkpoints",
        "curves.png",
        "tensorboard",
    } <= names
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"6", "8"}


def test_frozen_and_unused_parameters_stay_and_all_others_move(finished):
    before, after = params_at(finished, 6), params_at(finished, 8)
    still = {path for path in before if np.array_equal(before[path], after[path])}
    # The selector's attention uses no values, and its bias shifts all scores equally.
    unused = {"selector/window/v/kernel", "selector/window/v/bias", "selector/window/out/bias"}
    frozen = {path for path in before if path.startswith("vision/")}
    assert still == frozen | unused


# ---- Killed and started again -------------------------------------------------------------------


@pytest.fixture(scope="module")
def resumed(start, finished, tmp_path_factory):
    """The folder of a run that was killed and started again, and the second start's output."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    process = start(workdir)
    while process.poll() is None and not (workdir / "checkpoints" / "4").is_dir():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert len(rows(workdir)) < STEPS
    # A kill during a write leaves such lines.
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    return workdir, finish(start(workdir))


def test_resumed_run_has_the_losses_of_an_uninterrupted_one(resumed, finished):
    workdir, out = resumed
    assert "Continues at step " in out
    exact = ("step", "loss", "lr", "grad_norm", "targets", "tokens", "frames")
    ours, theirs = (
        [[row[key] for key in exact] for row in rows(path)] for path in (workdir, finished)
    )
    assert ours == theirs


def test_resumed_run_has_the_parameters_of_an_uninterrupted_one(resumed, finished):
    ours, theirs = params_at(resumed[0], STEPS), params_at(finished, STEPS)
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        assert ours[path].tobytes() == array.tobytes(), path


def test_finished_run_started_again_changes_nothing(finished, data, no_mesh, capsys):
    before = (finished / "metrics.jsonl").read_text()
    train(run_config(data), workdir=finished)
    assert f"Continues at step {STEPS}" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_text() == before


# ---- Where a run starts -------------------------------------------------------------------------


def test_init_from_starts_at_the_parameters_of_another_run(finished, data):
    config = dataclasses.replace(run_config(data), init_from=str(finished), seed=9)
    plan = resolve(dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer="")))
    assert plan.config.data.tokenizer == str(finished)
    abstract = abstract_state(plan, mesh=mesh.make_mesh(MeshConfig()))
    state = initial_state(plan, abstract=abstract)
    assert int(state.step) == 0
    for path, array in tree.flatten(state.params).items():
        np.testing.assert_array_equal(array, params_at(finished, STEPS)[path], err_msg=path)


def test_init_from_of_another_layout_is_refused(finished, data):
    model = dataclasses.replace(run_config(data).model, dts=DtsConfig(layout="temporal"))
    config = dataclasses.replace(run_config(data), init_from=str(finished), model=model)
    with pytest.raises(InputError, match=r"DTS layout 'released': set --config.model.dts.layout"):
        resolve(config)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, "another seed"),
        ({"keep_ratio": (0.5, 0.6)}, "another keep_ratio"),
        ({"optim": TrainConfig().optim}, "another optim"),
    ],
)
def test_changed_config_is_refused_in_the_same_folder(finished, data, change, named):
    config = dataclasses.replace(run_config(data), **change)
    before = (finished / "train_config.json").read_text()
    with pytest.raises(InputError, match=named):
        train(config, workdir=finished)
    assert (finished / "train_config.json").read_text() == before


def test_run_folder_says_how_its_model_is_asked(data, tmp_path):
    config = dataclasses.replace(run_config(data), keep_ratio=(1.0, 1.0))
    write_workdir(config, workdir=tmp_path)
    written = json.loads((tmp_path / "inference_config.json").read_text())
    frames = config.data.max_frames
    assert written == {"max_frames": frames, "fps": 0.0, "keep_ratio": 1.0}


def test_more_steps_of_the_same_config_are_accepted(data, tmp_path):
    plan = resolve(run_config(data))
    write_workdir(plan.config, workdir=tmp_path)
    longer = plan.replace(total_steps=99, log_every=3)
    assert resume_plan(longer, workdir=tmp_path).config == longer.config


# ---- Mistakes are refused before anything is written ---------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "nowhere.json"}, "Data file nowhere.json does not exist"),
        ({"tokenizer": "nowhere"}, "nowhere"),
        ({"max_frames": 6}, "data.max_frames is 6"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_data_is_refused_and_nothing_is_written(data, tmp_path, no_mesh, change, message):
    config = run_config(data)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **change))
    with pytest.raises(InputError, match=message):
        train(config, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_full_size_needs_tokenizer_and_data():
    config = TrainConfig(model=PRESETS["3b"])
    with pytest.raises(InputError, match="needs a tokenizer"):
        resolve(config)
    here = dataclasses.replace(config.data, tokenizer=str(TINY_TOKENIZER))
    with pytest.raises(InputError, match=r"needs data: set --config.data.path"):
        resolve(dataclasses.replace(config, data=here))


def test_tokenizer_must_fit_the_vocabulary(data):
    config = run_config(data)
    decoder = dataclasses.replace(config.model.decoder, vocab_size=380)
    model = dataclasses.replace(config.model, decoder=decoder)
    with pytest.raises(InputError, match="has 382 ids, the model only 380"):
        resolve(dataclasses.replace(config, model=model))


def test_tiny_preset_says_what_it_is(tmp_path, capsys):
    announce(RunPlan(TrainConfig()), workdir=tmp_path)
    first = capsys.readouterr().out.splitlines()[:2]
    assert first[0].startswith("This is the tiny preset")
    assert "--config=configs/stage2.py:3b" in first[1]
    announce(RunPlan(TrainConfig(model=PRESETS["3b"])), workdir=tmp_path)
    assert capsys.readouterr().out.startswith("3,604,752,160 parameters on ")


def test_batch_of_these_tests_holds_clip_picture_and_text(data):
    """In the batch of the runs above, text-only rows have no group, and the others have theirs."""
    config = run_config(data)
    iterator = build_pipeline(config.data, image_size=56, seed=0)
    batch = next(iterator)
    iterator.close()
    assert sorted((batch["group_segments"] > 0).sum(1).tolist()) == [0, 1, 1, 2]


def test_batches_of_two_shapes_train(data, tmp_path, no_mesh):
    """The bucket of four frames has one text, and that of eight has three visual records."""
    config = run_config(data)
    some = dataclasses.replace(config.data, batch_size=1, frame_buckets=(4,))
    config = dataclasses.replace(config, data=some, total_steps=5)
    train(config, workdir=tmp_path / "run")
    train(dataclasses.replace(config, total_steps=8), workdir=tmp_path / "run")
    table = rows(tmp_path / "run")
    assert [row["step"] for row in table] == list(range(1, 9))
    for start in (0, 4):
        shown = sorted(row["frames"] > 0 for row in table[start : start + 4])
        assert shown == [False, True, True, True]
    assert all(np.isfinite(row["loss"]) for row in table)


# ---- Stage 1, and a stage after it --------------------------------------------------------------


@pytest.fixture
def stage1(tmp_path):
    """A config with two clips without text; its small grid makes the whole evaluation quick."""
    for seed, name in enumerate(("train", "eval")):
        write_clip(tmp_path / f"{name}.mp4", frames=8, seed=seed)
        (tmp_path / f"{name}.json").write_text(json.dumps([{"video": f"{name}.mp4"}]))
    return TrainConfig(
        objective="recot",
        model=dataclasses.replace(MICRO, dts=DtsConfig(grid=4)),
        recot=RecotConfig(decoder_width=8, decoder_depth=1, decoder_heads=2),
        data=DataConfig(
            path=str(tmp_path / "train.json"), eval_path=str(tmp_path / "eval.json"), batch_size=1
        ),
        optim=OptimConfig(groups=(ParamGroup(pattern="^vision/", lr_scale=0.0),)),
        total_steps=4,
        eval_every=2,
    )


def test_stage_1_is_evaluated_on_its_way_and_at_the_end(stage1, tmp_path, no_mesh, capsys):
    run = tmp_path / "run"
    train(stage1, workdir=run)
    told = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [figures["step"] for figures in told] == [2, 4]
    assert json.loads((run / "recot.json").read_text()) == told[-1]
    assert {"recot.png", "curves.png"} <= {path.name for path in run.iterdir()}
    # The start after a kill in the last evaluation repeats it; the one after that does nothing.
    for _ in range(2):
        (run / "recot.json").unlink(missing_ok=True)
        train(stage1, workdir=run)
    train(stage1, workdir=run)
    again = (run / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in again[2:]] == told[-1:] * 2


def test_stage_2_starts_from_the_compressor_of_stage_1(stage1, data, tmp_path, no_mesh, capsys):
    run = tmp_path / "run"
    train(stage1, workdir=run)
    config = dataclasses.replace(run_config(data), model=stage1.model, init_from=str(run))
    plan = resolve(config)
    abstract = abstract_state(plan, mesh=mesh.make_mesh(MeshConfig()))
    state = initial_state(plan, abstract=abstract)
    taught = params_at(run, 4)
    started = tree.flatten(state.params)
    new = {path.split("/")[0] for path in set(started) - set(taught)}
    assert new == {"projector", "selector", "decoder"}
    for path in set(started) & set(taught):
        np.testing.assert_array_equal(started[path], taught[path], err_msg=path)
    out = capsys.readouterr().out
    assert f"From {run}: dts, vision." in out
    assert "Newly initialised: decoder, projector, selector." in out


def test_random_part_that_stays_frozen_is_named(stage1, capsys):
    plan = RunPlan(stage1)
    initial_state(plan, abstract=abstract_state(plan, mesh=mesh.make_mesh(MeshConfig())))
    said = "Frozen at initial values, because init_from has none: vision."
    assert said in capsys.readouterr().out


def test_evaluation_of_stage_2_is_refused(data):
    with pytest.raises(InputError, match="only stage 1 is evaluated"):
        resolve(dataclasses.replace(run_config(data), eval_every=5))


def test_missing_held_out_file_is_refused_before_the_training(stage1):
    data = dataclasses.replace(stage1.data, eval_path="nowhere.json")
    with pytest.raises(InputError, match=r"data.eval_path: Data file nowhere.json"):
        resolve(dataclasses.replace(stage1, data=data))


def test_held_out_file_may_change_in_the_same_folder(stage1, tmp_path):
    write_workdir(stage1, workdir=tmp_path / "run")
    data = dataclasses.replace(stage1.data, eval_path="other.json")
    plan = RunPlan(dataclasses.replace(stage1, data=data))
    assert resume_plan(plan, workdir=tmp_path / "run").config == plan.config
