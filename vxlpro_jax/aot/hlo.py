"""Reads FLOPs and the communication between devices from the text of a compiled program."""

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

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
_NAME = re.compile(r"%([\w.\-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")


_FLOATS = ("bf16", "f16", "f32")

# Products of two matrices in each attention kernel: splash attention's and cuDNN's.
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_CUDNN_PRODUCTS = {"fmhaSoftmax": 2, "fmhaSoftmaxBackward": 5}
# Calls that identify a library; splash attention is the only Pallas kernel for TPUs in use.
_ATTENTION = {"cudnn": "__cudnn$fmha", "splash": '"tpu_custom_call"'}


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

    An operation that is split into a start and an end instruction with one channel counts once.
    """
    found: dict[tuple[str, str], Collective] = {}
    devices = _num_devices(text)
    for one in _instructions(text):
        kind = one.operation.removesuffix("-start")
        if kind in KINDS:
            # On GPUs a single-instruction operation may share its channel with all others.
            channel = _CHANNEL.search(one.line) if one.operation == kind else None
            key = kind, channel[1] if channel else one.name
            size = _bytes(one.shape, operation=one.operation)
            sent = _sent(kind, size, group=_group_size(one.line, devices=devices))
            exposed = sent if one.operation == kind else 0
            this = Collective(*(one.times * x for x in (1, size, sent, exposed)))
            found[key] = max(this, found.get(key, _NONE))
    total = dict.fromkeys((kind for kind, _ in found), _NONE)
    for (kind, _), counted in found.items():
        total[kind] = Collective(*map(sum, zip(total[kind], counted, strict=True)))
    return total


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


def flops(text: str) -> int:
    """Counts the FLOPs of products in one run of a device, with every loop iteration.

    A multiplication and an addition are two. Products are those of matrices and convolutions, and
    those of `kernel_flops`.
    """
    count = {"dot": _dot_flops, "convolution": _convolution_flops}
    products = (one for one in _instructions(text) if one.operation in count)
    return kernel_flops(text) + sum(one.times * count[one.operation](one) for one in products)


def kernel_flops(text: str) -> int:
    """Counts the FLOPs of known attention kernels; causal attention counts half."""
    calls = (one for one in _instructions(text) if one.operation == "custom-call")
    return sum(one.times * _kernel_flops(one) for one in calls)


def cycles(text: str) -> int:
    """Sums the cycles that XLA estimates for one run on a TPU, with every loop iteration.

    Pallas kernels count as none, and other platforms have no estimate.
    """
    found = (
        (one.times, one.attribute(r'.*"estimated_cycles":"(\d+)"')) for one in _instructions(text)
    )
    return sum(times * int(count) for times, count in found if count)


def read_argument_bytes(text: str) -> int:
    """Sums the sizes of the program's arguments that it reads at all."""
    entry, bodies = _computations(text)
    lines = bodies.get(entry, [])
    uses = Counter(name for line in lines for name in _NAME.findall(line))
    arguments = (one for one in _results(lines) if one[3] == "parameter" and uses[one[1]] > 1)
    return sum(_bytes(one[2], operation="parameter") for one in arguments)


class _Instruction(NamedTuple):
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

    def operand(self, index: int) -> list[int]:
        """Returns the dimensions of an operand."""
        names = self.line.partition(f" {self.operation}(")[2].partition(")")[0].split(", ")
        return _dims(self.shapes[names[index].split()[-1].lstrip("%")])

    def attribute(self, pattern: str) -> str:
        """Returns the value of an attribute; empty if it is absent."""
        found = re.search(rf"[ ,]{pattern}", self.line)
        return found[1] if found else ""


@functools.lru_cache(maxsize=1)
def _instructions(text: str) -> list[_Instruction]:
    """Returns the instructions of all computations that run, once for each place that calls one."""
    entry, bodies = _computations(text)
    results = {name: _results(lines) for name, lines in bodies.items()}
    shapes = {name: {one[1]: one[2] for one in lines} for name, lines in results.items()}
    found = []

    def visit(name, times):
        for one in results.get(name, ()):
            line, operation = one.string, one[3]
            found.append(_Instruction(one[1], one[2], operation, line, times, shapes[name]))
            rounds = times * _trips(line, bodies) if operation == "while" else times
            for called in _called(line):
                visit(called, rounds)

    visit(entry, 1)
    return found


def _results(lines: Sequence[str]) -> list[re.Match]:
    return [found for found in map(_RESULT.match, lines) if found]


def _dot_flops(one: _Instruction) -> int:
    left = one.operand(0)
    contracted = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    inner = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * math.prod(_dims(one.shape)) * inner


def _kernel_flops(one: _Instruction) -> int:
    """Counts the products of an attention kernel by the shapes of its queries and keys."""
    for name, products in _SPLASH_PRODUCTS.items():
        if one.name.startswith(f"splash_mha_{name}"):
            operands = _ARRAY.findall(one.attribute(r"operand_layout_constraints=\{(.*?\})\}"))
            queries, keys = [_sizes(dims) for kind, dims in operands if kind in _FLOATS][:2]
            pairs = math.prod(queries[:-1]) * keys[-2]
            return _attention_flops(products, pairs * queries[-1], queries[-2] == keys[-2])
    for name, products in _CUDNN_PRODUCTS.items():
        if f'"__cudnn${name}"' in one.line:
            queries, keys = one.operand(0), one.operand(1)
            size = math.prod(queries) * keys[1]
            return _attention_flops(products, size, "CAUSAL" in one.line)
    return 0


def _attention_flops(products: int, size: int, is_causal: bool) -> int:
    return 2 * products * size // (2 if is_causal else 1)


def _convolution_flops(one: _Instruction) -> int:
    """Counts the products that do not meet padding; on TPUs matrix products are of this kind."""
    inputs, kernel, outputs = re.split("_|->", one.attribute(r"dim_labels=(\S+?)(?:,|$)"))
    sizes = (one.operand(0), one.operand(1), _dims(one.shape))
    left, right, result = (
        dict(zip(labels, dims, strict=True))
        for labels, dims in zip((inputs, kernel, outputs), sizes, strict=True)
    )
    window = one.attribute(r"window=\{([^}]*)\}")
    products = result["b"] * result["f"] * right["i"]
    for axis in range(len(inputs) - 2):
        name = str(axis)
        products *= _window_products(
            window, axis, left=left[name], kernel=right[name], result=result[name]
        )
    return 2 * products


def _window_products(window: str, axis: int, *, left: int, kernel: int, result: int) -> int:
    """Counts the pairs of a result and a kernel entry along an axis that meet an input entry."""

    def of(name, default):
        found = re.search(rf"(?:^| ){name}=(\S+)", window)
        return found[1].split("x")[axis] if found else default

    stride, spread, apart = (int(of(x, 1)) for x in ("stride", "lhs_dilate", "rhs_dilate"))
    low = int(of("pad", "0_0").split("_")[0])
    places = stride * np.arange(result)[:, None] + apart * np.arange(kernel) - low
    meets = (places >= 0) & (places <= (left - 1) * spread) & (places % spread == 0)
    return int(meets.sum())


def _dims(shape: str) -> list[int]:
    return _sizes(_ARRAY.findall(shape)[0][1])


def _sizes(dims: str) -> list[int]:
    return [int(size) for size in dims.split(",") if size]


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
