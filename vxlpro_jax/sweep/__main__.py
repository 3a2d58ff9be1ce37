"""Trains variants of a run and collects their results in one table.

`python -m vxlpro_jax.sweep --config=configs/ablations.py --workdir DIR [--only REGEX] [--dry_run]
[--launcher local|slurm|gke]`

Every variant is trained in stages 1 and 2 and evaluated on the synthetic questions, once per seed.
Each step is a separate command. When started again, the sweep runs the missing steps. A failed run
is reported, and the others continue. On a cluster each run is a job, and the sweep collects the
results when it is started again.
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
    """Runs the command line `argv`; returns 1 if a run failed."""
    arguments = parse_arguments(argv)
    workdir = arguments.workdir
    runs = plan(arguments.sweep, arguments.variants, workdir=workdir)
    executor = make_executor(arguments)
    if arguments.dry_run:
        for run in runs:
            print(executor.show(run))
        return 0
    runs_by: dict[LaunchStatus, list[Run]] = collections.defaultdict(list)
    for number, run in enumerate(runs, 1):
        status = executor.launch(run, label=f"[{number}/{len(runs)}] {run}")
        runs_by[status].append(run)
        if arguments.launcher == "local" or number == len(runs):
            found = list(collect(runs))
            write_results(found, usual_ratio=arguments.sweep.keep_ratio, workdir=workdir)
    print_summary(runs_by, workdir=workdir)
    return 1 if runs_by[LaunchStatus.FAILED] else 0


def print_summary(runs_by: dict[LaunchStatus, list[Run]], *, workdir: Path) -> None:
    """Prints the table so far, the number of runs by status, and the logs of failed runs."""
    print((workdir / "results.md").read_text())
    counts = {status.value: len(runs) for status, runs in runs_by.items()}
    if counts.keys() - {LaunchStatus.DONE.value, LaunchStatus.FAILED.value}:
        numbers = ", ".join(f"{count} {status}" for status, count in counts.items())
        print(f"Runs: {numbers}. Start this command again to collect their results.")
    for run in runs_by.get(LaunchStatus.FAILED, ()):
        print(f"Failed: {run}; see {run.folder / 'log.txt'}")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line.

    Attributes:
        sweep: settings that all variants share.
        variants: the chosen variants by name.
        workdir: folder of the runs.
        launcher: `local`, `slurm` or `gke`.
        template: template file for jobs on a cluster; empty for the one in `launch/`.
        dry_run: whether to print the commands instead of running them.
    """

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
        raise InputError(f"--only={values.only} is not a regular expression: {error}.") from error
    described = fields.pop("variants", {})
    variants = {
        name: from_mapping(Variant, settings, path=f"config.variants.{name}")
        for name, settings in described.items()
        if only.search(name)
    }
    if not variants:
        raise InputError(
            f"No variant matches --only={values.only}: known are {', '.join(described)}."
        )
    workdir = Path(values.workdir).expanduser().absolute()
    sweep = from_mapping(Sweep, fields)
    return Arguments(
        sweep, variants, workdir, values.launcher, values.template, dry_run=values.dry_run
    )


def _define(values: flags.FlagValues) -> None:
    string = flags.DEFINE_string
    string("workdir", "runs/ablations", "Folder of the runs.", flag_values=values)
    only = "Regular expression; only variants whose name contains a match are run."
    string("only", "", only, flag_values=values)
    template = "Template of the jobs, FILE or FILE:JOBSET (default: the one in launch/)."
    string("template", "", template, flag_values=values)
    names = ("local", "slurm", "gke")
    flags.DEFINE_enum("launcher", names[0], names, "Where to execute the runs.", flag_values=values)
    dry_run = "Print the commands, scripts or manifests instead of starting anything."
    flags.DEFINE_bool("dry_run", False, dry_run, flag_values=values)


def make_executor(arguments: Arguments) -> Executor:
    """Makes the executor that the command line names.

    Raises:
        InputError: its template cannot be read.
    """
    workdir = arguments.workdir
    compiled = workdir / "compiled"  # Variants share most compiled programs.
    if arguments.launcher == "slurm":
        return slurm.Slurm(template=Path(arguments.template or slurm.TEMPLATE), compiled=compiled)
    if arguments.launcher == "gke":
        template = arguments.template or gke.TEMPLATE
        return gke.Gke(template=template, name_prefix=workdir.name, compiled=compiled)
    environment = {"JAX_COMPILATION_CACHE_DIR": str(compiled), **os.environ}
    return local.Local(environment=environment)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
