"""Compiles a program ahead of time and reports its memory, FLOPs and communication."""

import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from vxlpro_jax.aot import collectives, hlo, kernels, memory_advice, products, programs
from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.schema import CacheType, TrainConfig
from vxlpro_jax.sharding import batch
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.utils import accelerators
from vxlpro_jax.utils.errors import InputError

_GIB = 2**30

# Matches "Used 19.35G of 15.75G hbm", or the size of the temporaries alone.
_USED = re.compile(
    r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])i?B?\)?"
    r" (?:of |exceeds available HBM \()([\d.]+)([KMGT])"
)


class Target(NamedTuple):
    """The program to compile, and the devices for which to compile it.

    Attributes:
        program: name of the program, one of `programs.build`.
        topology: accelerator and shape, such as `v5p:4x4x4` or `h100:8`.
        num_slices: number of slices of that shape.
        cache: storage type of keys and values in `prefill` and `decode`.
    """

    program: str
    topology: str
    num_slices: int = 1
    cache: CacheType = "model"


class Report(NamedTuple):
    """Report on a program.

    Attributes:
        figures: content of the file that `--json` writes.
        advice: changes that would save memory, if the program does not fit.
        text: the compiled program; empty if compiling failed.
    """

    figures: dict[str, Any]
    advice: list[str]
    text: str


def report_on(config: TrainConfig, target: Target) -> Report:
    """Compiles a program of a run for a topology, on the CPU, and reports its figures.

    Raises:
        InputError: there is no such topology, the mesh or the batch does not fit it, or the
            compiler is not installed.
    """
    jax.config.update("jax_platforms", "cpu")
    if target.program == "stage1":
        config = dataclasses.replace(config, objective="recot")
    mesh_config = dataclasses.replace(config.mesh, num_slices=target.num_slices)
    config = dataclasses.replace(config, mesh=mesh_config)
    accelerator = accelerators.accelerator_of_topology(target.topology)
    devices = topology_devices(target.topology, num_slices=target.num_slices)
    mesh = make_mesh(config.mesh, devices=devices)
    batch.check_batch(config.data.batch_size, parts=config.grad_accum_steps, mesh=mesh)
    jax.set_mesh(mesh)
    program = programs.build(target.program, config, mesh=mesh, cache=target.cache)
    compiled = compile_program(program, hbm_bytes=accelerator.usable_bytes)
    figures = make_report(
        compiled, config=config, what=target.program, accelerator=accelerator, mesh=mesh
    )
    if figures["fits"]:
        return Report(figures, [], compiled.text)
    advice = list(memory_advice.advice(config, what=target.program, mesh=mesh))
    return Report(figures, advice, compiled.text)


class Memory(NamedTuple):
    """Bytes per device. Those of the program are None if the compiler failed before it knew them.

    Attributes:
        total: sum of all kinds, with aliased memory counted once.
        limit: memory that a process may use.
        ahead: batches that wait on the device while a step runs.
        arguments: parameters, optimizer state and inputs.
        outputs: results.
        aliased: part of the results that reuses the memory of arguments.
        temporary: intermediate values.
        code: the program itself.
    """

    total: int
    limit: int
    ahead: int
    arguments: int | None = None
    outputs: int | None = None
    aliased: int | None = None
    temporary: int | None = None
    code: int | None = None


class CompiledProgram(NamedTuple):
    """A program's memory, its compile time in seconds, and its text (empty if compiling failed)."""

    memory: Memory
    seconds: float
    text: str


def compile_program(program: programs.Program, *, hbm_bytes: int) -> CompiledProgram:
    """Compiles for the current mesh; if memory is too small, reports the compiler's own total.

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
        ahead = program.bytes_ahead
        memory = Memory(total=total + ahead, limit=min(limit, hbm_bytes), ahead=ahead)
        return CompiledProgram(memory, time.monotonic() - started, "")
    held, ahead = programs.DeviceMemory.of(compiled), program.bytes_ahead
    memory = Memory(total=held.total + ahead, limit=hbm_bytes, ahead=ahead, **held._asdict())
    return CompiledProgram(memory, time.monotonic() - started, compiled.as_text() or "")


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** ("KMGT".index(unit) + 1))


def make_report(
    compiled: CompiledProgram,
    *,
    config: TrainConfig,
    what: str,
    accelerator: accelerators.Accelerator,
    mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
    """Collects the figures for `--json`: bytes, FLOPs and seconds of one step."""
    memory, sent = compiled.memory, collectives.collectives(compiled.text)
    work = memory_advice.work(config, what=what)
    network_bytes = sum(kind.sent for kind in sent.values())
    peak = mesh.size * accelerator.flops
    # Without a program, recomputation is known but padding is not.
    executed = mesh.size * products.flops(compiled.text) if compiled.text else work.executed
    seconds = {
        "compute": executed / peak,
        "network": network_bytes / accelerator.network_bandwidth,
        "memory": _moved_bytes(compiled) / accelerator.hbm_bandwidth,
    }
    model = _model_seconds(compiled.text, sent=sent, accelerator=accelerator)
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
        "flops_executed": executed,
        "collective_bytes": network_bytes,
        "attention": kernels.names(compiled.text),
        "collectives": {kind: value._asdict() for kind, value in sorted(sent.items())},
        "least_seconds": seconds,
        "mfu_bound": work.useful / peak / max(seconds.values()),
        "model_seconds": model,
        "model_mfu": work.useful / peak / model if model else None,
        "mesh": dict(mesh.shape),
    }


def _moved_bytes(compiled: CompiledProgram) -> int:
    """Returns the bytes that a device reads of its arguments, and writes of its results."""
    memory = compiled.memory
    written = (memory.outputs or 0) - (memory.aliased or 0)
    return hlo.read_argument_bytes(compiled.text) + written


def _model_seconds(
    text: str, *, sent: dict[str, collectives.Collective], accelerator: accelerators.Accelerator
) -> float | None:
    """Estimates the seconds of a run; None if the compiler has no estimate for the platform.

    These are XLA's own cycles, the attention kernels at peak FLOP/s or bandwidth of the memory, and
    the traffic during which nothing is computed. The estimate is uncalibrated: compare programs by
    it, and trust no seconds.
    """
    cycles = hlo.cycles(text)
    if not cycles or not accelerator.clock:
        return None
    exposed = sum(kind.exposed for kind in sent.values())
    attention = sum(
        kernel.times
        * max(kernel.flops / accelerator.flops, kernel.bytes / accelerator.hbm_bandwidth)
        for kernel in kernels.kernels(text)
    )
    return cycles / accelerator.clock + attention + exposed / accelerator.network_bandwidth


def format_table(report: dict[str, Any], *, topology: str) -> str:
    """Formats the figures as readable text."""
    kinds = {name: size for name, size in report["hbm_bytes_by_kind"].items() if size is not None}
    seconds = report["least_seconds"]
    lines = [
        f"{topology}, mesh {report['mesh']}, compiled in {report['compile_seconds']} s",
        *(f"  {name:<12}{size / _GIB:9.2f} GiB per device" for name, size in kinds.items()),
        f"  {'total':<12}{report['hbm_bytes_per_device'] / _GIB:9.2f} of"
        f" {report['hbm_limit_bytes'] / _GIB:.2f} GiB",
        f"  {report['flops_per_step']:.3e} FLOPs per step,"
        f" {report['flops_executed']:.3e} including recomputation and padding",
        *(
            f"  {kind:<20}{value['count']:7d} calls send {value['sent'] / _GIB:9.2f} GiB per device"
            for kind, value in report["collectives"].items()
        ),
        *_attention(report["attention"]),
        "  minimum step time: "
        + ", ".join(f"{value:.3f} s of {name}" for name, value in seconds.items())
        + f"; MFU at most {report['mfu_bound']:.2f}",
        *_model(report),
    ]
    return "\n".join(lines)


def _model(report: dict[str, Any]) -> Iterator[str]:
    if report["model_seconds"]:
        yield (
            f"  by the compiler's own model, uncalibrated: {report['model_seconds']:.3f} s,"
            f" MFU {report['model_mfu']:.2f}"
        )


def _attention(names: list[str]) -> Iterator[str]:
    if names:
        scratch = "; their scratch memory is not counted" if "cudnn" in names else ""
        yield f"  attention kernels, where supported: {' and '.join(names)}{scratch}"
