"""Sweeps: what is planned, that failures do not stop the rest, and the tables."""

import dataclasses
import os
import sys

import pytest
from helpers import ROOT

from vxlpro_jax import evaluate, sweep, train
from vxlpro_jax.config import InputError
from vxlpro_jax.sweep import Arguments, Measured, Run, Step, Sweep

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ABLATIONS = f"--config={ROOT / 'configs/ablations.py'}"


def parse(*more: str) -> Arguments:
    return sweep.parse_arguments(["sweep", ABLATIONS, *more])


def test_every_command_of_the_ablations_is_one_that_train_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = sweep.plan(parse(f"--workdir={tmp_path}"))
    assert len(runs) == 3 * len({run.variant for run in runs}) >= 24
    steps = [step for run in runs for step in run.steps]
    taken = {"vxlpro_jax.train": train, "vxlpro_jax.evaluate": evaluate}
    for command in {step.command for step in steps}:
        python, _, module, *arguments = command
        assert python == sys.executable
        first = [] if module.endswith("evaluate") else [module]
        taken[module].parse_arguments([*first, *arguments])
    assert len({step.leaves for step in steps}) == len(steps)


def test_variants_change_what_their_name_says(tmp_path):
    runs = {run.variant: run for run in sweep.plan(parse(f"--workdir={tmp_path}")) if not run.seed}
    first, second = ({v: r.steps[i].command for v, r in runs.items()} for i in (0, 1))
    assert "--config.recot.policy=tube" in first["mask_tube"]
    assert "--config.recot.mask_ratio=(0.9,0.9)" in first["mask_ratio_90"]
    for commands in (first, second):
        assert "--config.model.dts.layout=temporal" in commands["layout_temporal"]
    assert not any("init_from" in word for word in first["no_stage1"])
    init = f"--config.init_from={tmp_path / 'base/seed0/stage1'}"
    assert init in second["base"]
    asked = [step.name for step in runs["base"].steps[2:]]
    assert asked[0] == "embedded_1.0"
    assert asked[1:] == [f"needles_{ratio}" for ratio in (0.3, 0.6, 1.0)]


def test_only_some_variants(tmp_path, capsys):
    names = list(parse("--only=^mask_r").variants)
    assert names == ["mask_random", "mask_ratio_50", "mask_ratio_90"]
    with pytest.raises(InputError, match=r"known are base, .*no_stage1"):
        parse("--only=zzz")
    with pytest.raises(InputError, match="regular expression"):
        parse("--only=(")
    with pytest.raises(InputError, match="did you mean 'seeds'"):
        sweep.from_mapping(Sweep, {"seed": (1,)})
    assert sweep.main(["sweep", ABLATIONS, "--only=no_stage1", "--dry_run"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 3 * 2
    assert all("--config=configs/stage1.py" not in command for command in commands)


def write(path, content) -> Step:
    """A step that writes JSON to `path` and counts how often it ran."""
    text = (
        f"import json, pathlib; p = pathlib.Path({str(path)!r}); p.parent.mkdir(exist_ok=True);"
        f" p.write_text(json.dumps({content!r})); open(str(p) + '.ran', 'a').write('x')"
    )
    command = (sys.executable, "-c", text)
    return Step(path.parent.name, command, path, sweep.answer_measures, 0.9)


def test_a_failure_stops_its_own_run_only_and_what_is_done_stays(tmp_path, capsys):
    wrong = Step("stage2", (sys.executable, "-c", "raise SystemExit('no luck')"), tmp_path / "x")
    figures = {"accuracy": {"order": 0.5, "count": 1.0}}
    runs = [
        Run(
            name,
            0,
            tmp_path / name,
            (*more, write(tmp_path / name / "keep_0.9/results.json", figures)),
        )
        for name, more in (("good", ()), ("bad", (wrong,)))
    ]
    for _ in range(2):
        assert [sweep.execute(run, "1/1", environment=os.environ) for run in runs] == [True, False]
    assert "no luck" in (tmp_path / "bad/log.txt").read_text()
    assert (tmp_path / "good/keep_0.9/results.json.ran").read_text() == "x"
    assert [dataclasses.astuple(number) for number in sweep.measured(runs)] == [
        ("good", 0, 0.9, "mean", 0.75),
        ("good", 0, 0.9, "order", 0.5),
        ("good", 0, 0.9, "count", 1.0),
    ]


def test_needles_are_averaged_over_the_grid():
    grid = [{"frames": 8, "depth": depth, "accuracy": depth} for depth in (0.0, 0.5, 1.0)]
    assert sweep.needle_measures({"needle_grid": grid}) == {"needles": 0.5}


def test_tables_hold_mean_and_spread(tmp_path):
    found = [
        Measured("base", seed, ratio, measure, value + seed)
        for seed in range(3)
        for ratio, measure, value in (
            (None, "restore error", 0.0),
            (0.9, "mean", 1.0),
            (0.3, "mean", 2.0),
        )
    ]
    sweep.write_results(found, usual_ratio=0.9, workdir=tmp_path)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[:2] == ["variant,seed,keep_ratio,measure,value", "base,0,,restore error,0.0"]
    assert len(lines) == 10
    rows = (tmp_path / "results.md").read_text().splitlines()
    assert rows[0] == "| variant | seeds | restore error | mean |"
    assert rows[2:] == [
        "| base | 3 | 1.000 ± 1.000 | 2.000 ± 1.000 |",
        "| base, keep 0.3 | 3 |  | 3.000 ± 1.000 |",
    ]
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_results_of_nothing(tmp_path):
    sweep.write_results([], usual_ratio=0.9, workdir=tmp_path)
    assert (tmp_path / "results.csv").read_text().count("\n") == 1
