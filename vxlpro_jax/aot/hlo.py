"""What a compiled program sends between devices, read from its text."""

import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "bf16": 16} | {f"{kind}{n}": n for kind in "fsu" for n in (2, 4, 8, 16, 32, 64)}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_RESULT = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LIMIT = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LAYOUT = re.compile(r"\{[^}]*\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")


# By what a program calls; of Pallas kernels for TPUs no other is in use.
_ATTENTION = {"cudnn": "__cudnn$fmha", "splash": '"tpu_custom_call"'}


class Collective(NamedTuple):
    """Attributes: `count` of executions, and `bytes` of all their results on one device."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Collective]:
    """Executions and bytes by kind in one run of the program; a loop counts each of its rounds.

    What starts in one place and ends in another shares a channel and counts once.
    """
    entry, bodies = _computations(text)
    found: dict[tuple[str, str], Collective] = {}

    def visit(name, times):
        for line in bodies.get(name, ()):
            result = _RESULT.match(line)
            if not result:
                continue
            own_name, shape, operation = result.groups()
            kind = operation.removesuffix("-start")
            if kind in KINDS:
                # On GPUs what has a start of its own may share its channel with all others.
                channel = _CHANNEL.search(line) if operation == kind else None
                key = kind, channel[1] if channel else own_name
                this = Collective(times, times * _bytes(shape, operation=operation))
                found[key] = max(this, found.get(key, this))
            rounds = times * _trips(line, bodies) if operation == "while" else times
            for called in _called(line):
                visit(called, rounds)

    visit(entry, 1)
    total = dict.fromkeys((kind for kind, _ in found), Collective(0, 0))
    for (kind, _), (count, size) in found.items():
        total[kind] = Collective(total[kind].count + count, total[kind].bytes + size)
    return total


def attention_kernels(text: str) -> list[str]:
    """Libraries whose kernels compute attention; all other attention is the program's own."""
    return [name for name, called in _ATTENTION.items() if called in text]


def _trips(line, bodies):
    """Of a while loop: what the compiler knows, or what its counter is compared with; else 1."""
    if known := _KNOWN.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    lines = bodies.get(condition[1], ()) if condition else ()
    return max((int(n) for text in lines for n in _LIMIT.findall(text)), default=1)


def _computations(text):
    """The entry's name, and each computation's lines."""
    entry, current, bodies = "", None, {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = header[2]
            bodies[current] = []
            entry = current if header[1] else entry
        elif current:
            bodies[current].append(line)
    return entry, bodies


def _called(line):
    branches = _BRANCHES.search(line)
    names = branches[1].split(",") if branches else []
    return [*_CALLED.findall(line), *(name.strip().lstrip("%") for name in names)]


def _bytes(shape, *, operation):
    """Of the results: an operation that starts has its operands before them, and maybe counters
    behind; not that of a sum, whose results are like its operands.
    """
    if operation.endswith("-start") and operation != "all-reduce-start":
        shape = _elements(shape)[1]
    return sum(
        _BITS.get(kind, 0) // 8 * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _ARRAY.findall(shape)
    )


def _elements(shape):
    """`((f32[2], f32[4]), f32[8])` -> `(f32[2], f32[4])` and `f32[8]`; layouts are left out."""
    parts, depth = [""], 0
    for letter in _LAYOUT.sub("", shape)[1:-1]:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
