"""Checks devices, network, folder, config and data before a long run, and prints a line for each.

`python -m vxlpro_jax.preflight --config=configs/stage2.py [--workdir DIR] [--topology v5p:4x4x4]`
finds problems within a minute that would end a run later. With `--topology` it also compiles the
training step for those accelerators. Start it with all processes, as the run will be started; the
first process prints. It exits with 1 if a check failed.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from absl import flags

from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.distributed import cluster
from vxlpro_jax.utils import cli


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; returns 1 if a check failed."""
    arguments = parse_arguments(argv)
    # JAX is imported only after the flags are read.
    from etils import epath

    from vxlpro_jax.distributed import process_group
    from vxlpro_jax.training.preflight_checks import all_checks, examine
    from vxlpro_jax.training.setup import resolve

    with process_group.join(arguments.environ) as group, group.console():
        checks = all_checks(
            resolve(arguments.config),
            workdir=epath.Path(arguments.workdir).expanduser(),
            group=group,
            topology=arguments.topology,
            config_flags=arguments.config_flags,
        )
        failed = 0
        for check in checks:
            finding = examine(check, group=group)
            failed += not finding.ok
            print(finding.line(check.name), flush=True)
        return 1 if failed else 0


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line.

    Attributes:
        config: config of the run.
        workdir: path or URL of its folder.
        topology: accelerators to compile for, or empty.
        config_flags: command-line arguments that make up the config.
        environ: environment, including the flags that identify this process.
    """

    config: TrainConfig
    workdir: str
    topology: str
    config_flags: tuple[str, ...]
    environ: Mapping[str, str]


def parse_arguments(argv: list[str]) -> Arguments:
    """Reads `--config=FILE[:ARG]`, `--config.path=value` and the command's own flags.

    Raises:
        InputError: a flag or a key is unknown, or a value does not fit.
    """
    own = {
        "workdir": "Folder of the run.",
        "topology": "Accelerators to compile the training step for, such as v5p:4x4x4.",
        **{name: f"Same as the variable {variable}." for name, variable in cluster.FLAGS.items()},
    }

    def define(values: flags.FlagValues) -> None:
        for name, text in own.items():
            flags.DEFINE_string(name, "", text, flag_values=values)

    run = read_run(argv, define=define, doc=__doc__)
    workdir = run.flags.workdir or str(Path("runs") / run.name)
    rest = tuple(_without(argv[1:], names=own))
    given = {variable: run.flags[name].value for name, variable in cluster.FLAGS.items()}
    environ = os.environ | {variable: x for variable, x in given.items() if x}
    return Arguments(run.config, workdir, run.flags.topology, rest, environ)


def _without(words: Iterable[str], *, names: Iterable[str]) -> Iterator[str]:
    """Drops the flags with these names, each given as `--name=value` or as two arguments."""
    words = iter(words)
    for word in words:
        name, equals, _ = word.lstrip("-").partition("=")
        if name not in names:
            yield word
        elif not equals:
            next(words, None)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
