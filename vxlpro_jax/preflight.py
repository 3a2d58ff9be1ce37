"""Checks devices, network, folder, config and data before a long run, a line each.

`python -m vxlpro_jax.preflight --config=configs/stage2.py [--workdir DIR] [--topology v5p:4x4x4]`
finds at once what would end a run later; with `--topology` it also compiles the training step for
that TPU. Start it as the run will be started, with all its processes; the first one prints. It
exits with 1 if a check failed.
"""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.distributed import cluster, process_group
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.sharding.batch import check_batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.training.setup import open_data, resolve
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError


class Check(NamedTuple):
    """What can be wrong.

    Attributes:
        name: of it.
        parts: done in order by every process; none begins one before all have ended the last.
        clean_up: what remains to be done when a part has failed.
    """

    name: str
    parts: tuple[Callable[[], str], ...]
    clean_up: Callable[[], None] = lambda: None


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

    run = read_run(argv, define=define, doc=__doc__)
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


def all_checks(
    config: TrainConfig, *, arguments: Arguments, peers: ProcessGroup
) -> Iterable[Check]:
    """Those that apply, the cheapest first."""
    bound = functools.partial
    yield Check("devices", (bound(devices, config),))
    yield Check("all-reduce", (all_reduce,))
    own = {"folder": arguments.workdir, "peers": peers}
    parts = (write_file, read_file, remove_file)
    yield Check(
        "workdir",
        tuple(bound(part, **own) for part in parts),
        clean_up=bound(remove_what_is_left, **own),
    )
    yield Check("batch", (bound(batch, config),))
    yield Check("data", (bound(sample, config),))
    if arguments.topology:
        target = {"topology": arguments.topology, "config_flags": arguments.config_flags}
        yield Check("compile", (bound(compile_fit, config, **target, peers=peers),))


def examine(check: Check, *, peers: ProcessGroup) -> Finding:
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


_REDUCED_BYTES = 64 * 2**20  # On each device: large enough for bandwidth to prevail.


_GIB = 2**30


def devices(config: TrainConfig) -> str:
    """Whether the config's mesh fits the devices."""
    found = jax.devices()
    mesh = make_mesh(config.mesh)
    sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    processes = f"{jax.process_count()} process(es)"
    return f"{len(found)} {found[0].device_kind} in {processes}; mesh {sizes}"


def all_reduce() -> str:
    """Whether every device gets the sum of all, and the bytes/s that each of them sends."""
    count, elements = jax.device_count(), _REDUCED_BYTES // 4
    mesh = jax.make_mesh((count,), ("all",), axis_types=(AxisType.Auto,))
    ranks = jax.make_array_from_callback(
        (count, elements),
        NamedSharding(mesh, P("all")),
        lambda index: np.full((1, elements), (index[0].start or 0) + 1, np.float32),
    )
    add = jax.jit(
        jax.shard_map(lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=P("all"), out_specs=P())
    )
    expected = count * (count + 1) / 2
    with jax.set_mesh(mesh):
        for shard in add(ranks).addressable_shards:
            wrong = np.flatnonzero(np.asarray(shard.data) != expected)
            if wrong.size:
                got = np.asarray(shard.data).flat[wrong[0]]
                raise ValueError(f"{shard.device} got {got} where the sum is {expected}")
        seconds = min(_timed(add, ranks) for _ in range(3))
    if count == 1:
        return "one device has nothing to send"
    sent = 2 * (count - 1) / count * _REDUCED_BYTES
    return f"right on {count} devices; {sent / seconds / 1e9:.2f} GB/s a device"


def _timed(function: Callable, argument: jax.Array) -> float:
    started = time.monotonic()
    function(argument).block_until_ready()
    return time.monotonic() - started


def write_file(*, folder: epath.Path, peers: ProcessGroup) -> str:
    """Writes a small file, each process its own."""
    folder.mkdir(parents=True, exist_ok=True)
    _file(folder, peers.index).write_text(_content(peers.index))
    return ""


def read_file(*, folder: epath.Path, peers: ProcessGroup) -> str:
    """Reads the next process's file: all must see the same folder."""
    other = (peers.index + 1) % peers.count
    text = _file(folder, other).read_text()
    if text != _content(other):
        raise InputError(f"{_file(folder, other)} reads {text!r}, not what was written.")
    return f"{folder} can be written, and every process sees it"


def remove_file(*, folder: epath.Path, peers: ProcessGroup) -> str:
    """Takes this process's file away."""
    _file(folder, peers.index).unlink()
    return ""


def remove_what_is_left(*, folder: epath.Path, peers: ProcessGroup) -> None:
    """The same where it may not be there."""
    with contextlib.suppress(OSError):
        _file(folder, peers.index).unlink(missing_ok=True)


def _file(folder: epath.Path, process: int) -> epath.Path:
    return folder / f".preflight-{process}"


def _content(process: int) -> str:
    return f"process {process}"


def batch(config: TrainConfig) -> str:
    """Whether the mesh divides a batch."""
    mesh = make_mesh(config.mesh)
    rows, parts = config.data.batch_size, config.grad_accum_steps
    check_batch(rows, parts=parts, mesh=mesh)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    each = f"{rows // shards // parts} a device"
    return f"{rows} rows, {each}" + (f" in each of {parts} parts" if parts > 1 else "")


def sample(config: TrainConfig) -> str:
    """The first batch, as training takes it; its shapes and seconds."""
    started = time.monotonic()
    data = open_data(config, mesh=make_mesh(config.mesh))
    try:
        arrays = next(data)
        skipped = data.num_bad
    finally:
        data.close()
    shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in arrays.items() if x.size)
    bad = f"; {skipped} record(s) could not be read" if skipped else ""
    return f"{shapes} in {time.monotonic() - started:.1f} s{bad}"


def compile_fit(
    config: TrainConfig, *, topology: str, config_flags: Iterable[str], peers: ProcessGroup
) -> str:
    """Whether the training step compiles for the topology and fits; in the first process only."""
    if not peers.is_first:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fit.json"
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "vxlpro_jax.compile", *config_flags),
                *(f"--topology={topology}", f"--json={file}"),
                f"--num_slices={config.mesh.num_slices}",
            ],
            env=_without_devices(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        if not file.exists():
            raise InputError((ended.stderr.strip().splitlines() or ["no reason given"])[-1])
        report = json.loads(file.read_text())
    used, limit = (report[f"hbm_{name}"] for name in ("bytes_per_device", "limit_bytes"))
    told = f"{used / _GIB:.2f} of {limit / _GIB:.2f} GiB a device on {topology}"
    if not report["fits"]:
        raise InputError(f"{told}: python -m vxlpro_jax.compile tells what would help.")
    return told


def _without_devices(environment: dict[str, str]) -> dict[str, str]:
    """Of a process that must neither take this machine's devices nor join the others."""
    own = {
        name: value
        for name, value in environment.items()
        if name != "XLA_FLAGS" and not name.startswith("VXLPRO_")
    }
    return {**own, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
