"""Compiles a program ahead of time and reports its memory, operations and communication."""

import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from vxlpro_jax.aot import hlo, memory_advice, programs
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.utils import accelerators
from vxlpro_jax.utils.errors import InputError

_GIB = 2**30


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


class CompiledProgram(NamedTuple):
    """Attributes: `memory`, `seconds` to compile, and `text` of the program, "" if none came."""

    memory: Memory
    seconds: float
    text: str


def compile_program(program: programs.Program, *, hbm_bytes: int) -> CompiledProgram:
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
        return CompiledProgram(memory, time.monotonic() - started, "")
    held = programs.DeviceMemory.by(compiled)
    memory = Memory(*held, total=held.total, limit=hbm_bytes)
    return CompiledProgram(memory, time.monotonic() - started, compiled.as_text())


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** ("KMGT".index(unit) + 1))


def make_report(
    compiled: CompiledProgram,
    *,
    config: TrainConfig,
    what: str,
    chip: accelerators.Accelerator,
    mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
    """The figures of `--json`: bytes, operations and seconds, of one step."""
    memory, sent = compiled.memory, hlo.collectives(compiled.text)
    work = memory_advice.work(config, what=what)
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


def format_table(report: dict[str, Any], *, topology: str) -> str:
    """Formats the figures as text for people."""
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
