"""Plans the runs of a sweep: the steps of each, and the file that each step writes."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vxlpro_jax.sweep import measures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One variant: settings `path=value` of each stage, and further keep ratios for evaluation.

    Synthetic questions are asked at the sweep's own ratio too, needles only at these ratios.
    """

    has_stage1: bool = True
    stage1: tuple[str, ...] = ()
    stage2: tuple[str, ...] = ()
    keep_ratios: tuple[float, ...] = ()
    needle_keep_ratios: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """The settings that all variants of a sweep share."""

    configs: tuple[str, ...] = ("configs/stage1.py", "configs/stage2.py")
    """Config files of stages 1 and 2."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every variant runs once per seed."""
    stage1: tuple[str, ...] = ()
    """Settings `path=value` of stage 1."""
    stage2: tuple[str, ...] = ()
    """Settings `path=value` of stage 2."""
    keep_ratio: float = 0.9
    """Keep ratio at which the embedded questions are asked."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of a run.

    Attributes:
        name: name of the step.
        command: arguments of the command.
        output: file that exists once the step is done.
        measures: function that extracts numbers by name from that file's JSON; None if it has none.
        keep_ratio: keep ratio of these numbers; None if the selector does not affect them.
        is_parallel: whether all processes of a job run the step together; otherwise one runs it.
    """

    name: str
    command: tuple[str, ...]
    output: Path
    measures: Callable[[Mapping[str, Any]], dict[str, float]] | None = None
    keep_ratio: float | None = None
    is_parallel: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """One variant with one seed: its folder and its steps in order."""

    variant: str
    seed: int
    folder: Path
    steps: tuple[Step, ...]

    @property
    def missing(self) -> list[Step]:
        """The steps that are not done yet."""
        return [step for step in self.steps if not step.output.exists()]

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def plan(sweep: Sweep, variants: Mapping[str, Variant], *, workdir: Path) -> list[Run]:
    """Plans every run; the first seed of all variants precedes the second."""
    empty = (
        Run(name, seed, workdir / name / f"seed{seed}", ())
        for seed in sweep.seeds
        for name in variants
    )
    return [_with_steps(run, sweep=sweep, variant=variants[run.variant]) for run in empty]


def _with_steps(run: Run, *, sweep: Sweep, variant: Variant) -> Run:
    (config1, config2), steps, init = sweep.configs, [], ()
    stage1, stage2 = run.folder / "stage1", run.folder / "stage2"
    train = functools.partial(_train, seed=run.seed)
    if variant.has_stage1:
        command = train(config1, (*sweep.stage1, *variant.stage1), workdir=stage1)
        output = stage1 / "recot.json"
        steps.append(Step("stage1", command, output, measures.of_stage1, is_parallel=True))
        init = (f"init_from={stage1}",)
    command = train(config2, (*sweep.stage2, *variant.stage2, *init), workdir=stage2)
    steps.append(Step("stage2", command, stage2 / "goodput.json", is_parallel=True))
    measure = functools.partial(_measure, checkpoint=stage2, folder=run.folder)
    ratios = dict.fromkeys((sweep.keep_ratio, *variant.keep_ratios))
    steps += [measure("embedded", ratio=ratio) for ratio in ratios]
    steps += [measure("needles", ratio=ratio) for ratio in variant.needle_keep_ratios]
    return dataclasses.replace(run, steps=tuple(steps))


def _train(config: str, settings: Iterable[str], *, seed: int, workdir: Path) -> tuple[str, ...]:
    # A variant's value of a field overrides the sweep's.
    of_field = {setting.partition("=")[0]: setting for setting in (f"seed={seed}", *settings)}
    changes = (f"--config.{setting}" for setting in of_field.values())
    train = (sys.executable, "-m", "vxlpro_jax.train", f"--config={config}")
    return (*train, *changes, f"--workdir={workdir}")


# The command that evaluates a model, by the name of its questions.
_MEASURE_COMMANDS = {
    "embedded": ("vxlpro_jax.evaluate", "--benchmark", "embedded"),
    "needles": ("vxlpro_jax.needle", "--mode", "clips"),
}


def _measure(name: str, *, checkpoint: Path, ratio: float, folder: Path) -> Step:
    out = folder / f"{name}_{ratio}"
    command = (
        *(sys.executable, "-m", *_MEASURE_COMMANDS[name]),
        *("--checkpoint", str(checkpoint), "--keep_ratio", str(ratio), "--out", str(out)),
    )
    return Step(out.name, command, out / "results.json", measures.OF_BENCHMARK[name], ratio)
