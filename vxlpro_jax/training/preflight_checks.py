"""The checks of `vxlpro_jax.preflight`; each finds a problem that would end a run later."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.sharding.batch import check_batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.setup import open_data
from vxlpro_jax.utils.errors import InputError

_GIB = 2**30
_REDUCED_BYTES = 64 * 2**20  # Per device: large enough that bandwidth dominates.


class Check(NamedTuple):
    """One check.

    Attributes:
        name: name that is printed.
        parts: functions that every process calls in order; no process starts a part before all
            have finished the previous one. Each returns a detail to print, or raises.
        clean_up: function that every process calls when a part has failed.
    """

    name: str
    parts: tuple[Callable[[], str], ...]
    clean_up: Callable[[], None] = lambda: None


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
        ok: whether the check passed in every process.
        detail: figures if the check passed, else the reason.
    """

    ok: bool
    detail: str

    def line(self, name: str) -> str:
        """Formats the line that is printed."""
        return f"{'ok' if self.ok else 'FAILED':<8}{name:<12}{self.detail}"


def all_checks(
    plan: RunPlan,
    *,
    workdir: epath.Path,
    group: ProcessGroup,
    topology: str = "",
    config_flags: Sequence[str] = (),
) -> Iterator[Check]:
    """Yields the checks that apply, the cheapest first.

    Args:
        plan: plan of the run.
        workdir: folder of the run.
        group: processes of the run.
        topology: accelerators to compile for; empty to skip the compilation.
        config_flags: command-line arguments of the config, which are passed to the compiler.
    """
    bind, config = functools.partial, plan.config
    yield Check("devices", (bind(devices, config),))
    yield Check("all-reduce", (all_reduce,))
    own = {"folder": workdir, "group": group}
    parts = (write_file, read_file, remove_file)
    yield Check(
        "workdir",
        tuple(bind(part, **own) for part in parts),
        clean_up=bind(remove_what_is_left, **own),
    )
    yield Check("batch", (bind(batch, config),))
    yield Check("data", (bind(sample, plan),))
    if topology:
        target = {"topology": topology, "config_flags": config_flags}
        yield Check("compile", (bind(compile_fit, config, **target, group=group),))


def examine(check: Check, *, group: ProcessGroup) -> Finding:
    """Runs a check in every process."""
    found = []
    for part in check.parts:
        try:
            detail, reason = part(), ""
        except Exception as error:  # The other checks are useful whatever this one raised.
            detail, reason = "", _sentence(error)
        reasons = enumerate(group.gather(check.name, reason))
        failed = [(index, reason) for index, reason in reasons if reason]
        if failed:
            check.clean_up()
            index, reason = failed[0]
            where = f"{group.named([index])}: " if group.count > 1 else ""
            return Finding(False, f"{where}{reason}")
        found.append(detail)
    return Finding(True, "; ".join(filter(None, found)))


def _sentence(error: Exception) -> str:
    kind = "" if isinstance(error, InputError | OSError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}" or type(error).__name__


def devices(config: TrainConfig) -> str:
    """Checks that the mesh of the config fits the devices."""
    found = jax.devices()
    mesh = make_mesh(config.mesh)
    sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    processes = f"{jax.process_count()} process(es)"
    return f"{len(found)} {found[0].device_kind} in {processes}; mesh {sizes}"


def all_reduce() -> str:
    """Checks that every device gets the sum over all, and measures the bytes/s that it sends."""
    count, elements = jax.device_count(), _REDUCED_BYTES // 4
    mesh = jax.make_mesh((count,), ("all",), axis_types=(AxisType.Auto,))

    def rank(index):
        return np.full((1, elements), (index[0].start or 0) + 1, np.float32)

    ranks = jax.make_array_from_callback((count, elements), NamedSharding(mesh, P("all")), rank)
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
        return "skipped on one device"
    sent = 2 * (count - 1) / count * _REDUCED_BYTES
    return f"correct on {count} devices; {sent / seconds / 1e9:.2f} GB/s per device"


def _timed(function: Callable, argument: jax.Array) -> float:
    started = time.monotonic()
    function(argument).block_until_ready()
    return time.monotonic() - started


def write_file(*, folder: epath.Path, group: ProcessGroup) -> str:
    """Writes a small file for this process."""
    folder.mkdir(parents=True, exist_ok=True)
    _file(folder, group.index).write_text(_content(group.index))
    return ""


def read_file(*, folder: epath.Path, group: ProcessGroup) -> str:
    """Reads the file of the next process, to check that both see the same folder."""
    other = (group.index + 1) % group.count
    text = _file(folder, other).read_text()
    if text != _content(other):
        raise InputError(f"{_file(folder, other)} reads {text!r}, not what was written.")
    return f"{folder} can be written and is the same for every process"


def remove_file(*, folder: epath.Path, group: ProcessGroup) -> str:
    """Removes the file of this process."""
    _file(folder, group.index).unlink()
    return ""


def remove_what_is_left(*, folder: epath.Path, group: ProcessGroup) -> None:
    """Removes the file of this process if it is still there."""
    with contextlib.suppress(OSError):
        _file(folder, group.index).unlink(missing_ok=True)


def _file(folder: epath.Path, process: int) -> epath.Path:
    return folder / f".preflight-{process}"


def _content(process: int) -> str:
    return f"process {process}"


def batch(config: TrainConfig) -> str:
    """Checks that the mesh divides the batch."""
    mesh = make_mesh(config.mesh)
    rows, parts = config.data.batch_size, config.grad_accum_steps
    check_batch(rows, parts=parts, mesh=mesh)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    per_device = f"{rows // shards // parts} per device"
    steps = f" and gradient accumulation step, of {parts}" if parts > 1 else ""
    return f"{rows} rows, {per_device}{steps}"


def sample(plan: RunPlan) -> str:
    """Reads the first batch as training does, and reports its shapes and seconds."""
    started = time.monotonic()
    data = open_data(plan, mesh=make_mesh(plan.config.mesh))
    try:
        arrays = next(data)
        skipped = data.num_bad
    finally:
        data.close()
    shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in arrays.items() if x.size)
    bad = f"; {skipped} record(s) could not be read" if skipped else ""
    return f"{shapes} in {time.monotonic() - started:.1f} s{bad}"


def compile_fit(
    config: TrainConfig, *, topology: str, config_flags: Iterable[str], group: ProcessGroup
) -> str:
    """Checks in the first process that the training step compiles for the topology and fits."""
    if not group.is_first:
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
    memory = f"{used / _GIB:.2f} of {limit / _GIB:.2f} GiB per device on {topology}"
    if not report["fits"]:
        raise InputError(f"{memory}: python -m vxlpro_jax.compile names what would save memory.")
    return memory


def _without_devices(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment for a process that neither uses the devices nor joins the run."""
    own = {
        name: value
        for name, value in environment.items()
        if name != "XLA_FLAGS" and not name.startswith("VXLPRO_")
    }
    return {**own, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
