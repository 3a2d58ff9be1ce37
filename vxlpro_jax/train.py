"""Trains a model.

    python -m vxlpro_jax.train --config=configs/stage2.py [--config.FIELD=VALUE ...] [--workdir DIR]

Stage 1 trains the compressor by ReCoT, stages 2 and 3 train the whole model; the config names the
objective. Starting the same command again with the same WORKDIR resumes from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.distributed import cluster
from vxlpro_jax.utils import cli

if TYPE_CHECKING:
    from vxlpro_jax.distributed.process_group import ProcessGroup


def main(argv: Sequence[str]) -> int:
    """Runs the command line `argv`."""
    arguments = parse_arguments(argv)
    from vxlpro_jax.distributed import process_group

    with process_group.join(arguments.environ) as group:
        return train(
            arguments.config, workdir=arguments.workdir, profile=arguments.profile, group=group
        )


def train(
    config: TrainConfig, *, workdir: Path, profile: str = "", group: ProcessGroup | None = None
) -> int:
    """Trains as `training.loop.train` does, and evaluates if the config asks for it."""
    from vxlpro_jax.evals.during_training import evaluate
    from vxlpro_jax.training import loop

    return loop.train(config, workdir=workdir, evaluate=evaluate, profile=profile, group=group)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line.

    Attributes:
        config: config of the run.
        workdir: folder of the run.
        profile: steps to trace, `FIRST:COUNT`; empty for none.
        environ: environment, including the flags that identify this process.
    """

    config: TrainConfig
    workdir: Path
    profile: str
    environ: Mapping[str, str]


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Reads the command line `argv`.

    Raises:
        InputError: a flag or a key is unknown, or a value does not fit.
        SystemExit: `--help` was asked for and is printed.
    """
    run = read_run(argv, define=_define, doc=__doc__)
    workdir = Path(run.flags.workdir or Path("runs") / run.name)
    given = {variable: run.flags[name].value for name, variable in cluster.FLAGS.items()}
    environ = os.environ | {variable: x for variable, x in given.items() if x is not None}
    return Arguments(run.config, workdir.expanduser().absolute(), run.flags.profile, environ)


def _define(values: flags.FlagValues) -> None:
    workdir = "Folder of the run (default: runs/NAME-PRESET)."
    flags.DEFINE_string("workdir", None, workdir, flag_values=values)
    flags.DEFINE_string("profile", "", "Steps to profile, FIRST:COUNT.", flag_values=values)
    for name, variable in cluster.FLAGS.items():
        flags.DEFINE_string(name, None, f"Overrides the variable {variable}.", flag_values=values)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
