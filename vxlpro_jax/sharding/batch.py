"""Divides the rows of a batch over devices and processes."""

from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.utils.errors import InputError


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch, by row over data x fsdp."""
    return NamedSharding(mesh, P(("data", "fsdp")))


class RowBlock(NamedTuple):
    """The rows of a batch that a process reads: block `index` of `count` equal blocks."""

    index: int
    count: int


def row_blocks(mesh: Mesh) -> dict[int, RowBlock]:
    """Determines the rows that each process reads: those of its devices.

    Raises:
        InputError: as in `assign_rows`.
    """
    rows = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    return assign_rows([[device.process_index for device in devices] for devices in rows])


def assign_rows(processes: Sequence[Sequence[int]]) -> dict[int, RowBlock]:
    """Determines the rows that each process reads, from the processes that hold each row.

    Processes that hold the same rows, because another axis than data and fsdp spans them, read the
    same rows.

    Raises:
        InputError: two processes share some of their rows, but not all.
    """
    held: dict[int, list[int]] = {}
    for row, holders in enumerate(processes):
        for process in set(holders):
            held.setdefault(process, []).append(row)
    blocks = sorted({tuple(rows) for rows in held.values()})
    if any(len(block) * len(blocks) != len(processes) for block in blocks):
        raise InputError(
            f"The mesh divides {len(processes)} rows (data x fsdp) unevenly among {len(held)}"
            " processes: make one a multiple of the other."
        )
    return {
        process: RowBlock(blocks.index(tuple(rows)), len(blocks)) for process, rows in held.items()
    }


def check_batch(batch_size: int, *, mesh: Mesh, parts: int = 1) -> None:
    """Checks that the batch size is divisible by the data axes and gradient accumulation steps.

    Args:
        batch_size: number of rows of a batch.
        mesh: mesh of the run.
        parts: number of gradient accumulation steps.

    Raises:
        InputError: `batch_size` is not a multiple of data x fsdp x parts.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if parts < 1 or batch_size % (shards * parts):
        times = f" x grad_accum_steps = {shards} x {parts}" if parts != 1 else f" = {shards}"
        raise InputError(
            f"data.batch_size {batch_size} is not divisible by data x fsdp{times}: change it"
            " or the mesh."
        )
