"""Runs variants of a training and puts them into one table.

`python -m vxlpro_jax.sweep --config=configs/ablations.py --workdir DIR [--only REGEX] [--dry_run]`

Every variant goes through stage 1, stage 2 and the embedded task's questions, once a seed, each
step a command of its own. Started again, it does what is missing; what fails is told, and the rest
goes on.
"""

import csv
import dataclasses
import functools
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from ml_collections import config_flags

from vxlpro_jax import cli
from vxlpro_jax.config import InputError, from_mapping
from vxlpro_jax.files import write_atomically

Summary = dict[str, dict[str, list[float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """Settings `path=value` of each stage, and keep ratios at which needles are asked for."""

    has_stage1: bool = True
    stage1: tuple[str, ...] = ()
    stage2: tuple[str, ...] = ()
    needle_keep_ratios: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What all variants share: config files of the stages, settings, seeds, keep ratio."""

    configs: tuple[str, ...] = ("configs/stage1.py", "configs/stage2.py")
    seeds: tuple[int, ...] = (0,)
    stage1: tuple[str, ...] = ()
    stage2: tuple[str, ...] = ()
    keep_ratio: float = 0.9


@dataclasses.dataclass(frozen=True)
class Step:
    """A command, and the file that it leaves when it is done.

    `measures` takes numbers by measure from that file, if it holds any; `keep_ratio` is theirs.
    """

    name: str
    command: tuple[str, ...]
    leaves: Path
    measures: Callable[[Mapping[str, Any]], dict[str, float]] | None = None
    keep_ratio: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One variant and seed: its folder and its steps in order."""

    variant: str
    seed: int
    folder: Path
    steps: tuple[Step, ...]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One measured number; `keep_ratio` is None where the selector has no part in it."""

    variant: str
    seed: int
    keep_ratio: float | None
    measure: str
    value: float


def main(argv: Sequence[str]) -> int:
    """Runs the command line `argv`; 1 when a run failed."""
    arguments = parse_arguments(argv)
    runs = plan(arguments)
    if arguments.dry_run:
        for run in runs:
            for step in run.steps:
                print(shlex.join(step.command))
        return 0
    # Variants share most of what they compile.
    environment = {"JAX_COMPILATION_CACHE_DIR": str(arguments.workdir / "compiled"), **os.environ}
    usual_ratio, failed = arguments.sweep.keep_ratio, []
    for number, run in enumerate(runs, 1):
        if not execute(run, f"{number}/{len(runs)}", environment=environment):
            failed.append(run)
        write_results(list(measured(runs)), usual_ratio=usual_ratio, workdir=arguments.workdir)
    print((arguments.workdir / "results.md").read_text())
    for run in failed:
        print(f"Failed: {run.variant}, seed {run.seed}; see {run.folder / 'log.txt'}")
    return 1 if failed else 0


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line: the sweep, its variants by name, and where they run."""

    sweep: Sweep
    variants: dict[str, Variant]
    workdir: Path
    dry_run: bool


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Reads `--config=FILE`, `--workdir`, `--only` and `--dry_run`.

    Raises:
        InputError: a flag or a key is unknown, a value does not fit, or no variant is left.
    """
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", "configs/ablations.py", lock_config=True, flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", "runs/ablations", "Folder of the runs.", flag_values=values)
    flags.DEFINE_string("only", "", "Only variants whose name has this.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print the commands instead.", flag_values=values)
    given, rest = cli.read_flags(values, list(argv), config=config)
    try:
        only = re.compile(values.only)
    except re.error as error:
        raise InputError(f"--only={values.only} is no regular expression: {error}.") from error
    if rest:
        raise InputError(f"Command line: {' '.join(rest)} is not known.")
    described = given.pop("variants", {})
    variants = {
        name: from_mapping(Variant, settings, path=f"config.variants.{name}")
        for name, settings in described.items()
        if only.search(name)
    }
    if not variants:
        raise InputError(f"No variant fits --only={values.only}: known are {', '.join(described)}.")
    sweep = from_mapping(Sweep, given)
    return Arguments(sweep, variants, Path(values.workdir).expanduser().absolute(), values.dry_run)


def plan(arguments: Arguments) -> list[Run]:
    """Every run, the first seed of all variants before the second."""
    return [
        _plan_run(name, variant, seed=seed, arguments=arguments)
        for seed in arguments.sweep.seeds
        for name, variant in arguments.variants.items()
    ]


def _plan_run(name: str, variant: Variant, *, seed: int, arguments: Arguments) -> Run:
    sweep, folder = arguments.sweep, arguments.workdir / name / f"seed{seed}"
    (config1, config2), steps, init = sweep.configs, [], ()
    if variant.has_stage1:
        stage1 = folder / "stage1"
        command = _train(config1, (*sweep.stage1, *variant.stage1), seed=seed, workdir=stage1)
        steps.append(Step("stage1", command, stage1 / "recot.json", stage1_measures))
        init = (f"init_from={stage1}",)
    stage2 = folder / "stage2"
    command = _train(config2, (*sweep.stage2, *variant.stage2, *init), seed=seed, workdir=stage2)
    steps.append(Step("stage2", command, stage2 / "curves.png"))
    evaluate = functools.partial(_evaluate, stage2, folder=folder)
    steps.append(evaluate("embedded", ratio=sweep.keep_ratio))
    steps += [evaluate("needles", ratio=ratio) for ratio in variant.needle_keep_ratios]
    return Run(name, seed, folder, tuple(steps))


def _train(config: str, settings: Iterable[str], *, seed: int, workdir: Path) -> tuple[str, ...]:
    changes = (f"--config.{setting}" for setting in (f"seed={seed}", *settings))
    train = (sys.executable, "-m", "vxlpro_jax.train", f"--config={config}")
    return (*train, *changes, f"--workdir={workdir}")


def _evaluate(checkpoint: Path, benchmark: str, *, ratio: float, folder: Path) -> Step:
    out = folder / f"{benchmark}_{ratio}"
    command = (
        *(sys.executable, "-m", "vxlpro_jax.evaluate", "--benchmark", benchmark),
        *("--checkpoint", str(checkpoint), "--keep_ratio", str(ratio), "--out", str(out)),
    )
    return Step(out.name, command, out / "results.json", _BENCHMARK_MEASURES[benchmark], ratio)


def execute(run: Run, number: str, *, environment: Mapping[str, str]) -> bool:
    """Does the steps that are missing, up to one that fails; False if one did."""
    run.folder.mkdir(parents=True, exist_ok=True)
    for step in run.steps:
        if step.leaves.exists():
            continue
        print(f"[{number}] {run.variant}, seed {run.seed}: {step.name}", flush=True)
        with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(step.command)}\n")
            log.flush()
            ended = subprocess.run(
                step.command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
            )
        if ended.returncode:
            return False
    return True


def measured(runs: Iterable[Run]) -> Iterator[Measured]:
    """Whatever the runs have measured so far."""
    for run in runs:
        for step in run.steps:
            if step.measures and step.leaves.exists():
                values = step.measures(json.loads(step.leaves.read_text()))
                for measure, value in values.items():
                    yield Measured(run.variant, run.seed, step.keep_ratio, measure, value)


def stage1_measures(report: Mapping[str, Any]) -> dict[str, float]:
    """What is compared of a `recot.json`."""
    return {
        "restore error": report["reconstruction"]["model"],
        "shuffle similarity": report["shuffle_similarity"],
        "direction probe": report["direction_probe"]["compressed"],
    }


def answer_measures(report: Mapping[str, Any]) -> dict[str, float]:
    """What is compared of the embedded task's `results.json`."""
    return {"mean": float(np.mean(list(report["accuracy"].values()))), **report["accuracy"]}


def needle_measures(report: Mapping[str, Any]) -> dict[str, float]:
    """What is compared of the needles' `results.json`: the mean over all lengths and depths."""
    return {"needles": float(np.mean([cell["accuracy"] for cell in report["needle_grid"]]))}


_BENCHMARK_MEASURES = {"embedded": answer_measures, "needles": needle_measures}


def write_results(found: Sequence[Measured], *, usual_ratio: float, workdir: Path) -> None:
    """`results.csv`, a line a number; `results.md`, mean and deviation over seeds; a plot."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Measured)])
    writer.writerows(dataclasses.astuple(number) for number in found)
    write_atomically(workdir / "results.csv", text.getvalue())
    summary = summarize(found, usual_ratio=usual_ratio)
    write_atomically(workdir / "results.md", table(summary))
    draw(summary, path=workdir / "results.png")


def summarize(found: Iterable[Measured], *, usual_ratio: float) -> Summary:
    """The seeds' values by row, a variant and perhaps its unusual keep ratio, and by measure."""
    rows: Summary = defaultdict(lambda: defaultdict(list))
    for number in found:
        is_usual = number.keep_ratio in (None, usual_ratio)
        row = number.variant if is_usual else f"{number.variant}, keep {number.keep_ratio}"
        rows[row][number.measure].append(number.value)
    return rows


def table(summary: Summary) -> str:
    """Markdown: a row a variant, mean and standard deviation over its seeds."""
    measures = _measures(summary)
    lines = [f"| variant | seeds | {' | '.join(measures)} |", "| --- " * (2 + len(measures)) + "|"]
    for row, values in summary.items():
        cells = [_cell(values[measure]) if measure in values else "" for measure in measures]
        seeds = max(map(len, values.values()))
        lines.append(f"| {row} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _measures(summary: Summary) -> list[str]:
    return list(dict.fromkeys(measure for values in summary.values() for measure in values))


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def draw(summary: Summary, *, path: Path) -> None:
    """A panel a measure: every seed a dot, the mean a line."""
    measures, rows = _measures(summary), list(summary)
    size = (2.2 * len(measures) + 2, 0.35 * len(rows) + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, max(len(measures), 1), sharey=True, squeeze=False)[0]
    for panel, measure in zip(panels, measures, strict=False):
        for place, row in enumerate(rows):
            values = summary[row].get(measure, [])
            panel.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.6)
            if values:
                panel.plot(np.mean(values), place, "|", color="black", markersize=14)
        panel.set_title(measure)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
