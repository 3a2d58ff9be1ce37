"""How the rows of a batch are divided over devices and processes."""

from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.utils.errors import InputError


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over data x fsdp."""
    return NamedSharding(mesh, P(("data", "fsdp")))


class RowBlock(NamedTuple):
    """Attributes: `index` of the block of a batch's rows that a process reads; `count` of them."""

    index: int
    count: int


def row_blocks(mesh: Mesh) -> dict[int, RowBlock]:
    """By process, which rows it reads: those of its devices.

    Raises:
        InputError: as `assign_rows`.
    """
    rows = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    return assign_rows([[device.process_index for device in devices] for devices in rows])


def assign_rows(processes: Sequence[Sequence[int]]) -> dict[int, RowBlock]:
    """As `readers`, for the processes of the devices that hold each row.

    Processes that hold the same rows, because another axis than data and fsdp spans them, read the
    same.

    Raises:
        InputError: two processes hold some of their rows, but not all of them, together.
    """
    held: dict[int, list[int]] = {}
    for row, holders in enumerate(processes):
        for process in set(holders):
            held.setdefault(process, []).append(row)
    blocks = sorted({tuple(rows) for rows in held.values()})
    if any(len(block) * len(blocks) != len(processes) for block in blocks):
        raise InputError(
            f"The mesh deals {len(processes)} rows (data x fsdp) unevenly to {len(held)} processes:"
            " make one a multiple of the other."
        )
    return {
        process: RowBlock(blocks.index(tuple(rows)), len(blocks)) for process, rows in held.items()
    }


def check_batch(batch_size: int, *, mesh: Mesh, parts: int = 1) -> None:
    """Rejects a batch of which the data axes cannot share each of `parts` evenly.

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
