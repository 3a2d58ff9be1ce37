"""Reads the instructions of a compiled program from its text."""

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
_NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """Attributes: `dtype` as the text names it, `bf16`; and the dimensions `dims`."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size; dtypes of less than a byte, tokens and the like count as none."""
        return _BITS.get(self.dtype, 0) // 8 * math.prod(self.dims)


def arrays(shape: str) -> list[Array]:
    """Returns the arrays of a shape written as text."""
    return [
        Array(dtype, tuple(int(size) for size in dims.split(",") if size))
        for dtype, dims in _ARRAY.findall(shape)
    ]


class Instruction(NamedTuple):
    """An instruction of a program.

    Attributes:
        name: name of its result.
        shape: shape of its result as text.
        operation: name of its operation.
        line: its whole text.
        times: number of executions in one run of the program.
        shapes: shapes of the results of its computation, by name.
    """

    name: str
    shape: str
    operation: str
    line: str
    times: int
    shapes: Mapping[str, str]

    def operand(self, index: int) -> tuple[int, ...]:
        """Returns the dimensions of an operand."""
        names = self.line.partition(f" {self.operation}(")[2].partition(")")[0].split(", ")
        return arrays(self.shapes[names[index].split()[-1].lstrip("%")])[0].dims

    def attribute(self, pattern: str) -> str:
        """Returns the value of an attribute; empty if it is absent."""
        found = re.search(rf"[ ,]{pattern}", self.line)
        return found[1] if found else ""


@functools.lru_cache(maxsize=1)
def instructions(text: str) -> list[Instruction]:
    """Returns the instructions of all computations that run, once for each place that calls one."""
    entry, bodies = _computations(text)
    results = {name: _results(lines) for name, lines in bodies.items()}
    shapes = {name: {one[1]: one[2] for one in lines} for name, lines in results.items()}
    found = []

    def visit(name, times):
        for one in results.get(name, ()):
            line, operation = one.string, one[3]
            found.append(Instruction(one[1], one[2], operation, line, times, shapes[name]))
            rounds = times * _trips(line, bodies) if operation == "while" else times
            for called in _called(line):
                visit(called, rounds)

    visit(entry, 1)
    return found


def _results(lines: Sequence[str]) -> list[re.Match]:
    return [found for found in map(_RESULT.match, lines) if found]


def cycles(text: str) -> int:
    """Sums the cycles that XLA estimates for one run on a TPU, with every loop iteration.

    Pallas kernels count as none, and other platforms have no estimate.
    """
    found = (
        (one.times, one.attribute(r'.*"estimated_cycles":"(\d+)"')) for one in instructions(text)
    )
    return sum(times * int(count) for times, count in found if count)


def read_argument_bytes(text: str) -> int:
    """Sums the sizes of the program's arguments that it reads at all."""
    entry, bodies = _computations(text)
    lines = bodies.get(entry, [])
    uses = Counter(name for line in lines for name in _NAME.findall(line))
    arguments = (one for one in _results(lines) if one[3] == "parameter" and uses[one[1]] > 1)
    return sum(x.bytes for one in arguments for x in arrays(one[2]))


def elements(shape: str) -> list[str]:
    """Splits `((f32[2], f32[4]), f32[8])` into `(f32[2], f32[4])` and `f32[8]`, without layouts."""
    parts, depth = [""], 0
    for letter in _LAYOUT.sub("", shape)[1:-1]:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


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
