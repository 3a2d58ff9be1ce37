"""Counts the communication between devices in a compiled program."""

import math
import re
from typing import NamedTuple

from vxlpro_jax.aot.hlo import Instruction, arrays, elements, instructions

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_CHANNEL = re.compile(r"channel_id=(\d+)")


class Collective(NamedTuple):
    """Executions of a kind of collective in one run of a program.

    Attributes:
        count: number of executions.
        bytes: bytes of their results per device.
        sent: bytes that a device sends if the devices of a group form a ring.
        exposed: part of `sent` in operations during which nothing is computed.
    """

    count: int
    bytes: int
    sent: int
    exposed: int


_NONE = Collective(0, 0, 0, 0)


def collectives(text: str) -> dict[str, Collective]:
    """Counts executions and bytes by kind in one run of the program, with every loop iteration.

    An operation that is split into a start and an end, be they instructions or fusions with one
    channel, counts once and hides behind what is computed in between.
    """
    found: dict[tuple[str, str], dict[str, Collective]] = {}
    devices = _num_devices(text)
    for one in instructions(text):
        kind = one.operation.removesuffix("-start")
        if kind in _KINDS:
            # On GPUs a single-instruction operation may share its channel with all others.
            channel = _CHANNEL.search(one.line) if one.operation == kind else None
            key = kind, channel[1] if channel else one.name
            found.setdefault(key, {})[one.name] = _collective(one, devices=devices)
    total = dict.fromkeys((kind for kind, _ in found), _NONE)
    for (kind, _), parts in found.items():
        counted = max(parts.values())
        if len(parts) > 1:
            counted = counted._replace(exposed=0)
        total[kind] = Collective(*map(sum, zip(total[kind], counted, strict=True)))
    return total


def _collective(one: Instruction, *, devices: int) -> Collective:
    kind = one.operation.removesuffix("-start")
    size = _bytes(one.shape, operation=one.operation)
    sent = _sent(kind, size, group=_group_size(one.line, devices=devices))
    exposed = sent if one.operation == kind else 0
    return Collective(*(one.times * x for x in (1, size, sent, exposed)))


def _sent(kind: str, size: int, *, group: int) -> int:
    """Returns the bytes that a device sends in a ring, for results of `size` bytes a device."""
    if kind == "collective-permute":
        return size
    if kind == "reduce-scatter":
        return size * (group - 1)
    return (2 if kind == "all-reduce" else 1) * size * (group - 1) // group


def _num_devices(text: str) -> int:
    header = text.partition("\n")[0]
    counts = (re.search(rf"{name}=(\d+)", header) for name in ("num_partitions", "replica_count"))
    return math.prod(int(found[1]) for found in counts if found)


def _group_size(line: str, *, devices: int) -> int:
    """Returns the number of devices that exchange data with one another."""
    if grid := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(grid[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return listed[1].count(",") + 1
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        # A part of an axis is written as 'axis':(offset)size.
        used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes[2])
        return math.prod(int(part or sizes[name]) for name, part in used)
    return devices


def _bytes(shape: str, *, operation: str) -> int:
    """Returns the size in bytes of an operation's results.

    The shape of a start operation lists operands before the results, and possibly counters after
    them. The exception is an all-reduce, whose results have the same shape as its operands.
    """
    if operation.endswith("-start") and operation != "all-reduce-start":
        shape = elements(shape)[1]
    return sum(array.bytes for array in arrays(shape))
