"""Counts the FLOPs of a compiled program: matrix products, convolutions and attention kernels."""

import math
import re

import numpy as np

from vxlpro_jax.aot.hlo import Instruction, arrays, instructions

_FLOATS = ("bf16", "f16", "f32")

# Products of two matrices in each attention kernel: splash attention's, `short`'s and cuDNN's.
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_SHORT_PRODUCTS = {"fwd": 2, "bwd": 5}
_CUDNN_PRODUCTS = {"fmhaSoftmax": 2, "fmhaSoftmaxBackward": 5}
# Calls that identify a backend.
_ATTENTION = {"cudnn": "__cudnn$fmha", "short": "short_attention_", "splash": "splash_mha_"}


def flops(text: str) -> int:
    """Counts the FLOPs of products in one run of a device, with every loop iteration.

    A multiplication and an addition are two. Products are those of matrices and convolutions, and
    those of `kernel_flops`.
    """
    count = {"dot": _dot_flops, "convolution": _convolution_flops}
    products = (one for one in instructions(text) if one.operation in count)
    return kernel_flops(text) + sum(one.times * count[one.operation](one) for one in products)


def kernel_flops(text: str) -> int:
    """Counts the FLOPs of known attention kernels; causal attention counts half."""
    calls = (one for one in instructions(text) if one.operation == "custom-call")
    return sum(one.times * _kernel_flops(one) for one in calls)


def attention_kernels(text: str) -> list[str]:
    """Names the libraries whose kernels compute attention in the program."""
    return [name for name, called in _ATTENTION.items() if called in text]


def _dot_flops(one: Instruction) -> int:
    left = one.operand(0)
    contracted = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    inner = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * math.prod(arrays(one.shape)[0].dims) * inner


def _kernel_flops(one: Instruction) -> int:
    """Counts the products of an attention kernel by the shapes of its queries and keys."""
    for name, products in _SPLASH_PRODUCTS.items():
        if f"splash_mha_{name}" in one.name:
            queries, keys = _floating_operands(one)[:2]
            size = math.prod(queries) * keys[-2]
            return _attention_flops(products, size, is_causal=queries[-2] == keys[-2])
    for name, products in _SHORT_PRODUCTS.items():
        if f"short_attention_{name}" in one.name:
            queries, keys = _floating_operands(one)[:2]
            return _attention_flops(products, math.prod(queries) * keys[1], is_causal=False)
    for name, products in _CUDNN_PRODUCTS.items():
        if f'"__cudnn${name}"' in one.line:
            queries, keys = one.operand(0), one.operand(1)
            size = math.prod(queries) * keys[1]
            return _attention_flops(products, size, is_causal="CAUSAL" in one.line)
    return 0


def _floating_operands(one: Instruction) -> list[tuple[int, ...]]:
    """Returns the dimensions of a Pallas kernel's operands, without those of indices."""
    operands = arrays(one.attribute(r"operand_layout_constraints=\{(.*?\})\}"))
    return [x.dims for x in operands if x.dtype in _FLOATS]


def _attention_flops(products: int, size: int, *, is_causal: bool) -> int:
    return 2 * products * size // (2 if is_causal else 1)


def _convolution_flops(one: Instruction) -> int:
    """Counts the products that do not meet padding; on TPUs matrix products are of this kind."""
    inputs, kernel, outputs = re.split("_|->", one.attribute(r"dim_labels=(\S+?)(?:,|$)"))
    sizes = (one.operand(0), one.operand(1), arrays(one.shape)[0].dims)
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
