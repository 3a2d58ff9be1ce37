"""Tells before a pod is rented whether a run fits it, and how fast it could be at most.

`python -m vxlpro_jax.compile --config=configs/stage2.py:3b --topology=v5p:4x4x4 [--num_slices N]
[--what train|stage1|encode|assemble|prefill|decode] [--json FILE]` compiles the real program for
TPUs that need not be there, on any machine with `pip install -e '.[tpu]'`; `--topology=h100:8` for
GPUs, with `pip install -e '.[gpu]'`. It exits with 1 if the program does not fit and says what
would help. An answer is what `encode`, `assemble`, `prefill` and `decode` do one after another.
"""

import dataclasses
import json
import re
import sys
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags

from vxlpro_jax import estimate, gpu_topology, hlo, programs, tpu_topology
from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.models.kv_cache import CacheType
from vxlpro_jax.sharding import batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.utils import accelerators, cli
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

_GIB = 2**30
_WHAT = ("train", "stage1", "encode", "assemble", "prefill", "decode")
# "Used 19.35G of 15.75G hbm", or what the temporaries alone take.
_USED = re.compile(
    r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])i?B?\)?"
    r" (?:of |exceeds available HBM \()([\d.]+)([KMGT])"
)


class Memory(NamedTuple):
    """Bytes on each device; `temporary` is None if the compiler gave up before it knew."""

    arguments: int | None
    outputs: int | None
    aliased: int | None
    temporary: int | None
    code: int | None
    total: int
    limit: int


class Compiled(NamedTuple):
    """Attributes: `memory`, `seconds` to compile, and `text` of the program, "" if none came."""

    memory: Memory
    seconds: float
    text: str


def main(argv: list[str]) -> int:
    """Runs the command line `argv`."""
    jax.config.update("jax_platforms", "cpu")
    run = read_run(argv, define=_define)
    what, config = run.flags.what, run.config
    if what == "stage1":
        config = dataclasses.replace(config, task="recot")
    config = dataclasses.replace(
        config, mesh=dataclasses.replace(config.mesh, num_slices=run.flags.num_slices)
    )
    chip = accelerators.chip_of(run.flags.topology)
    of_kind = gpu_topology if chip in accelerators.GPUS.values() else tpu_topology
    devices = of_kind.topology_devices(run.flags.topology, num_slices=run.flags.num_slices)
    mesh = make_mesh(config.mesh, devices=devices)
    batch.check_batch(config.data.batch_size, parts=config.accumulate, mesh=mesh)
    jax.set_mesh(mesh)
    program = programs.build(what, config, mesh=mesh, cache=run.flags.kv_cache)
    compiled = compile_program(program, hbm_bytes=chip.usable_bytes)
    report = tell(compiled, config=config, what=what, chip=chip, mesh=mesh)
    print(_table(report, topology=run.flags.topology))
    if not report["fits"]:
        print("\nIt does not fit. What would help, by estimate:")
        print("\n".join(f"- {line}" for line in estimate.advice(config, what=what, mesh=mesh)))
    if run.flags.json:
        write_atomically(Path(run.flags.json), json.dumps(report, indent=2) + "\n")
    return 0 if report["fits"] else 1


def _define(values):
    flags.DEFINE_string("topology", "", "Chip and shape, v5p:4x4x4 or h100:8.", flag_values=values)
    flags.DEFINE_integer("num_slices", 1, "Slices of that shape.", flag_values=values)
    flags.DEFINE_enum("what", "train", _WHAT, "The program.", flag_values=values)
    flags.DEFINE_enum(
        "kv_cache",
        "model",
        typing.get_args(CacheType),
        "Type of the keys and values that prefill and decode keep.",
        flag_values=values,
    )
    flags.DEFINE_string("json", "", "File for the figures.", flag_values=values)


def compile_program(program: programs.Program, *, hbm_bytes: int) -> Compiled:
    """Compiles for the current mesh. Where memory does not do, the compiler's own sum is taken.

    Raises:
        InputError: a library that the program calls is not installed.
    """
    started = time.monotonic()
    try:
        lowered = program.jitted().lower(*program.arguments)
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        raise InputError(
            f"{error} It comes with pip install -e '.[gpu]'; --config.model.attention=chunked does"
            " without."
        ) from error
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = _USED.search(str(error))
        if not used:
            raise
        total, limit = _bytes(used[1], used[2]), _bytes(used[3], used[4])
        memory = Memory(None, None, None, None, None, total=total, limit=min(limit, hbm_bytes))
        return Compiled(memory, time.monotonic() - started, "")
    held = programs.Held.by(compiled)
    memory = Memory(*held, total=held.total, limit=hbm_bytes)
    return Compiled(memory, time.monotonic() - started, compiled.as_text())


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** ("KMGT".index(unit) + 1))


def tell(
    compiled: Compiled,
    *,
    config: TrainConfig,
    what: str,
    chip: accelerators.Chip,
    mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
    """The figures of `--json`: bytes, operations and seconds, of one step."""
    memory, sent = compiled.memory, hlo.collectives(compiled.text)
    work = estimate.work(config, what=what)
    network_bytes = sum(kind.bytes for kind in sent.values())
    seconds = {
        "compute": work.executed / mesh.size / chip.flops,
        "network": network_bytes / chip.network_bandwidth,
        "memory": ((memory.arguments or 0) + (memory.outputs or 0)) / chip.hbm_bandwidth,
    }
    return {
        "fits": memory.total <= memory.limit,
        "hbm_bytes_per_device": memory.total,
        "hbm_limit_bytes": memory.limit,
        "hbm_bytes_by_kind": {
            kind: value
            for kind, value in memory._asdict().items()
            if kind not in ("total", "limit")
        },
        "compile_seconds": round(compiled.seconds, 1),
        "flops_per_step": work.useful,
        "flops_executed": work.executed,
        "collective_bytes": network_bytes,
        "attention": hlo.attention_kernels(compiled.text),
        "collectives": {kind: value._asdict() for kind, value in sorted(sent.items())},
        "least_seconds": seconds,
        "mfu_bound": work.useful / mesh.size / chip.flops / max(seconds.values()),
        "mesh": dict(mesh.shape),
    }


def _table(report: dict[str, Any], *, topology: str) -> str:
    kinds = {name: size for name, size in report["hbm_bytes_by_kind"].items() if size is not None}
    seconds = report["least_seconds"]
    lines = [
        f"{topology}, mesh {report['mesh']}, compiled in {report['compile_seconds']} s",
        *(f"  {name:<12}{size / _GIB:9.2f} GiB a device" for name, size in kinds.items()),
        f"  {'in all':<12}{report['hbm_bytes_per_device'] / _GIB:9.2f} of"
        f" {report['hbm_limit_bytes'] / _GIB:.2f} GiB",
        f"  {report['flops_per_step']:.3e} FLOPs a step,"
        f" {report['flops_executed']:.3e} with what is computed again",
        *(
            f"  {kind:<20}{value['count']:7d} times {value['bytes'] / _GIB:9.2f} GiB a device"
            for kind, value in report["collectives"].items()
        ),
        *_attention(report["attention"]),
        "  a step takes at least "
        + ", ".join(f"{value:.3f} s of {name}" for name, value in seconds.items())
        + f": MFU at most {report['mfu_bound']:.2f}",
    ]
    return "\n".join(lines)


def _attention(kernels: list[str]) -> Iterator[str]:
    if kernels:
        scratch = "; their scratch memory is not counted" if "cudnn" in kernels else ""
        yield f"  attention, where they can, by kernels of {' and '.join(kernels)}{scratch}"


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
