"""Finds the attention kernels of a compiled program, with their FLOPs and the bytes they move."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from vxlpro_jax.aot.hlo import Array, Instruction, arrays, instructions

_FLOATS = ("bf16", "f16", "f32")

# Products of two matrices in each kernel: splash attention's, `short`'s and cuDNN's.
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_SHORT_PRODUCTS = {"fwd": 2, "bwd": 5}
_CUDNN_PRODUCTS = {"fmhaSoftmax": 2, "fmhaSoftmaxBackward": 5}
_CACHED_PRODUCTS = 2
# Calls that identify a library.
_NAMES = {
    "cached": "cached_attention",
    "cudnn": "__cudnn$fmha",
    "short": "short_attention_",
    "splash": "splash_mha_",
}


class Kernel(NamedTuple):
    """Calls of an attention kernel.

    Attributes:
        times: number of executions in one run of the program.
        flops: FLOPs of one execution; causal attention counts half.
        bytes: bytes that one execution reads and writes at least.
    """

    times: int
    flops: int
    bytes: int


def kernels(text: str) -> Iterator[Kernel]:
    """Yields the known attention kernels of a program."""
    for one in instructions(text):
        if one.operation == "custom-call" and (flops := _flops(one)):
            yield Kernel(one.times, flops, _bytes(one))


def names(text: str) -> list[str]:
    """Names the libraries whose kernels compute attention in the program."""
    return [name for name, called in _NAMES.items() if called in text]


def _flops(one: Instruction) -> int:
    """Counts the products of a kernel by the shapes of its queries and keys; 0 if unknown."""
    for name, products in _SPLASH_PRODUCTS.items():
        if f"splash_mha_{name}" in one.name:
            queries, keys = _floating_operands(one)[:2]
            size = math.prod(queries) * keys[-2]
            return _attention_flops(products, size, is_causal=queries[-2] == keys[-2])
    for name, products in _SHORT_PRODUCTS.items():
        if f"short_attention_{name}" in one.name:
            queries, keys = _floating_operands(one)[:2]
            return _attention_flops(products, math.prod(queries) * keys[1], is_causal=False)
    if "cached_attention" in one.name:
        queries, slots = _floating_operands(one)[0], _cache(one)[0].dims[2]
        return _attention_flops(_CACHED_PRODUCTS, math.prod(queries) * slots, is_causal=False)
    for name, products in _CUDNN_PRODUCTS.items():
        if f'"__cudnn${name}"' in one.line:
            queries, keys = one.operand(0), one.operand(1)
            size = math.prod(queries) * keys[1]
            return _attention_flops(products, size, is_causal="CAUSAL" in one.line)
    return 0


def _bytes(one: Instruction) -> int:
    written = sum(x.bytes for x in arrays(one.shape))
    if "cached_attention" in one.name:  # It reads a single layer.
        return written + sum(x.bytes // x.dims[0] for x in _cache(one))
    return written + sum(x.bytes for x in _operands(one))


def _operands(one: Instruction) -> list[Array]:
    """Returns the operands of a Pallas kernel."""
    return arrays(one.attribute(r"operand_layout_constraints=\{(.*?\})\}"))


def _floating_operands(one: Instruction) -> list[tuple[int, ...]]:
    """Returns the dimensions of a Pallas kernel's operands, without those of indices."""
    return [x.dims for x in _operands(one) if x.dtype in _FLOATS]


def _cache(one: Instruction) -> list[Array]:
    """Returns keys and values of all layers, and their scales, after two indices and queries."""
    return _operands(one)[3:]


def _attention_flops(products: int, size: int, *, is_causal: bool) -> int:
    return 2 * products * size // (2 if is_causal else 1)
