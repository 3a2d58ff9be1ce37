"""Checks devices, network, folder, config and data before a long run, a line each.

`python -m vxlpro_jax.preflight --config=configs/stage2.py [--workdir DIR] [--topology v5p:4x4x4]`
finds at once what would end a run later; with `--topology` it also compiles the training step for
that TPU. Start it as the run will be started, with all its processes; the first one prints. It
exits with 1 if a check failed.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from absl import flags
from etils import epath

from vxlpro_jax import checks
from vxlpro_jax.checks import Check
from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.distributed import cluster, process_group
from vxlpro_jax.distributed.process_group import Peers
from vxlpro_jax.training.setup import resolve
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError


class Finding(NamedTuple):
    """Attributes: `ok` in every process, and the `detail` or the reason."""

    ok: bool
    detail: str

    def line(self, name: str) -> str:
        """What is printed of it."""
        return f"{'ok' if self.ok else 'FAILED':<8}{name:<12}{self.detail}"


def main(argv: list[str]) -> int:
    """Runs the command line `argv`; 1 when a check failed."""
    arguments = parse_arguments(argv)
    with process_group.join(arguments.environ) as peers, peers.console():
        config, failed = resolve(arguments.config), 0
        for check in all_checks(config, arguments=arguments, peers=peers):
            finding = examine(check, peers=peers)
            failed += not finding.ok
            print(finding.line(check.name), flush=True)
        return 1 if failed else 0


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line: the run's config, its folder, a topology or "", and the config's flags.

    `environ` is the environment, with the flags that say which process this is.
    """

    config: TrainConfig
    workdir: epath.Path
    topology: str
    config_flags: tuple[str, ...]
    environ: Mapping[str, str]


def parse_arguments(argv: list[str]) -> Arguments:
    """Reads `--config=FILE[:ARG]`, `--config.path=value`, `--workdir`, `--topology` and which of
    several processes this is.

    Raises:
        InputError: a flag or a key is unknown, or a value does not fit.
    """
    own = {"workdir": "Folder of the run.", "topology": "To be compiled for, v5p:4x4x4."}
    own |= {name: f"Instead of {variable}." for name, variable in cluster.FLAGS.items()}

    def define(values):
        for name, told in own.items():
            flags.DEFINE_string(name, "", told, flag_values=values)

    run = read_run(argv, define=define)
    workdir = epath.Path(run.flags.workdir or Path("runs") / run.name).expanduser()
    rest = tuple(_without(argv[1:], names=own))
    given = {variable: run.flags[name].value for name, variable in cluster.FLAGS.items()}
    environ = os.environ | {variable: x for variable, x in given.items() if x}
    return Arguments(run.config, workdir, run.flags.topology, rest, environ)


def _without(words: Iterable[str], *, names: Iterable[str]) -> Iterable[str]:
    """The words that do not belong to the flags of these names, `--name=value` or in two words."""
    words = iter(words)
    for word in words:
        name, equals, _ = word.lstrip("-").partition("=")
        if name not in names:
            yield word
        elif not equals:
            next(words, None)


def all_checks(config: TrainConfig, *, arguments: Arguments, peers: Peers) -> Iterable[Check]:
    """Those that apply, the cheapest first."""
    bound = functools.partial
    yield Check("devices", (bound(checks.devices, config),))
    yield Check("all-reduce", (checks.all_reduce,))
    own = {"folder": arguments.workdir, "peers": peers}
    parts = (checks.write_file, checks.read_file, checks.remove_file)
    yield Check(
        "workdir",
        tuple(bound(part, **own) for part in parts),
        clean_up=bound(checks.remove_what_is_left, **own),
    )
    yield Check("batch", (bound(checks.batch, config),))
    yield Check("data", (bound(checks.sample, config),))
    if arguments.topology:
        target = {"topology": arguments.topology, "config_flags": arguments.config_flags}
        yield Check("compile", (bound(checks.compile_fit, config, **target, peers=peers),))


def examine(check: Check, *, peers: Peers) -> Finding:
    """Does a check in every process."""
    found = []
    for part in check.parts:
        try:
            detail, reason = part(), ""
        except Exception as error:  # Whatever it is, the other checks still tell something.
            detail, reason = "", _sentence(error)
        reasons = enumerate(peers.gather(check.name, reason))
        failed = [(index, told) for index, told in reasons if told]
        if failed:
            check.clean_up()
            index, told = failed[0]
            return Finding(False, f"{peers.named([index])}: {told}" if peers.count > 1 else told)
        found.append(detail)
    return Finding(True, "; ".join(filter(None, found)))


def _sentence(error: Exception) -> str:
    kind = "" if isinstance(error, InputError | OSError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}" or type(error).__name__


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
