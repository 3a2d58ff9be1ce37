"""Reads the communication between devices from the text of a compiled program."""

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


# Calls that identify a library; splash attention is the only Pallas kernel for TPUs in use.
_ATTENTION = {"cudnn": "__cudnn$fmha", "splash": '"tpu_custom_call"'}


class Collective(NamedTuple):
    """Number of executions of a kind of collective, and the bytes of their results per device."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Collective]:
    """Counts executions and bytes by kind in one run of the program, with every loop iteration.

    An operation that is split into a start and an end instruction with one channel counts once.
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
                # On GPUs a single-instruction operation may share its channel with all others.
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
    """Names the libraries whose kernels compute attention in the program."""
    return [name for name, called in _ATTENTION.items() if called in text]


def _trips(line, bodies):
    """Returns a loop's iterations: known to the compiler, or the counter's limit, or else 1."""
    if known := _KNOWN.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    lines = bodies.get(condition[1], ()) if condition else ()
    return max((int(n) for text in lines for n in _LIMIT.findall(text)), default=1)


def _computations(text):
    """Returns the entry's name and the lines of each computation."""
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
    """Returns the size in bytes of an operation's results.

    The shape of a start operation lists operands before the results, and possibly counters after
    them. The exception is an all-reduce, whose results have the same shape as its operands.
    """
    if operation.endswith("-start") and operation != "all-reduce-start":
        shape = _elements(shape)[1]
    return sum(
        _BITS.get(kind, 0) // 8 * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _ARRAY.findall(shape)
    )


def _elements(shape):
    """Splits `((f32[2], f32[4]), f32[8])` into `(f32[2], f32[4])` and `f32[8]`, without layouts."""
    parts, depth = [""], 0
    for letter in _LAYOUT.sub("", shape)[1:-1]:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
