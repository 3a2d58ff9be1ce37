"""Runs variants of a training and puts them into one table.

`python -m vxlpro_jax.sweep --config=configs/ablations.py --workdir DIR [--only REGEX] [--dry_run]
[--launcher local|slurm|gke]`

Every variant goes through stage 1, stage 2 and the embedded task's questions, once a seed, each
step a command of its own. Started again, it does what is missing; what fails is told, and the rest
goes on. On a cluster a run is a job, and results are collected when this is started again.
"""

import collections
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from vxlpro_jax.config.flags import read_config_flags
from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.sweep.executors import gke, local, slurm
from vxlpro_jax.sweep.executors.base import Executor, LaunchStatus
from vxlpro_jax.sweep.plan import Run, Sweep, Variant, plan
from vxlpro_jax.sweep.results import collect, write_results
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError


def main(argv: Sequence[str]) -> int:
    """Runs the command line `argv`; 1 when a run failed."""
    arguments = parse_arguments(argv)
    workdir = arguments.workdir
    runs = plan(arguments.sweep, arguments.variants, workdir=workdir)
    launcher = make_executor(arguments)
    if arguments.dry_run:
        for run in runs:
            print(launcher.show(run))
        return 0
    runs_by = collections.defaultdict(list)
    for number, run in enumerate(runs, 1):
        outcome = launcher.launch(run, label=f"[{number}/{len(runs)}] {run}")
        runs_by[outcome].append(run)
        if arguments.launcher == "local" or number == len(runs):
            found = list(collect(runs))
            write_results(found, usual_ratio=arguments.sweep.keep_ratio, workdir=workdir)
    print_summary(runs_by, workdir=workdir)
    return 1 if runs_by[LaunchStatus.FAILED] else 0


def print_summary(runs_by: dict[LaunchStatus, list[Run]], *, workdir: Path) -> None:
    """Prints the table so far, what is not done, and where to look for failures."""
    print((workdir / "results.md").read_text())
    counts = {outcome.value: len(runs) for outcome, runs in runs_by.items()}
    if counts.keys() - {LaunchStatus.DONE.value, LaunchStatus.FAILED.value}:
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        print(f"Runs: {told}. Start this command again to collect what they measure.")
    for run in runs_by.get(LaunchStatus.FAILED, ()):
        print(f"Failed: {run}; see {run.folder / 'log.txt'}")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line: the sweep, its variants by name, and how and where they run."""

    sweep: Sweep
    variants: dict[str, Variant]
    workdir: Path
    launcher: str
    template: str
    dry_run: bool


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Reads `--config=FILE[:GROUP]` and the other flags.

    Raises:
        InputError: a flag or a key is unknown, a value does not fit, or no variant is left.
    """
    given = read_config_flags(
        argv, schema=Sweep, define=_define, doc=__doc__, default_file="configs/ablations.py"
    )
    values, fields = given.flags, dict(given.values)
    try:
        only = re.compile(values.only)
    except re.error as error:
        raise InputError(f"--only={values.only} is no regular expression: {error}.") from error
    described = fields.pop("variants", {})
    variants = {
        name: from_mapping(Variant, settings, path=f"config.variants.{name}")
        for name, settings in described.items()
        if only.search(name)
    }
    if not variants:
        raise InputError(f"No variant fits --only={values.only}: known are {', '.join(described)}.")
    workdir = Path(values.workdir).expanduser().absolute()
    sweep = from_mapping(Sweep, fields)
    return Arguments(
        sweep, variants, workdir, values.launcher, values.template, dry_run=values.dry_run
    )


def _define(values: flags.FlagValues) -> None:
    string = flags.DEFINE_string
    string("workdir", "runs/ablations", "Folder of the runs.", flag_values=values)
    string("only", "", "Only variants whose name has this.", flag_values=values)
    string("template", "", "Instead of launch/'s: FILE, or FILE:JOBSET.", flag_values=values)
    names = ("local", "slurm", "gke")
    flags.DEFINE_enum("launcher", names[0], names, "Where runs are done.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print what would be done.", flag_values=values)


def make_executor(arguments: Arguments) -> Executor:
    """The launcher that the command line names.

    Raises:
        InputError: its template cannot be read.
    """
    workdir = arguments.workdir
    compiled = workdir / "compiled"  # Variants share most of what they compile.
    if arguments.launcher == "slurm":
        return slurm.Slurm(template=Path(arguments.template or slurm.TEMPLATE), compiled=compiled)
    if arguments.launcher == "gke":
        template = arguments.template or gke.TEMPLATE
        return gke.Gke(template=template, name_prefix=workdir.name, compiled=compiled)
    environment = {"JAX_COMPILATION_CACHE_DIR": str(compiled), **os.environ}
    return local.Local(environment=environment)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
