"""Counts the FLOPs of a compiled program: matrix products, convolutions and attention kernels."""

import math
import re

import numpy as np

from vxlpro_jax.aot import kernels
from vxlpro_jax.aot.hlo import Instruction, arrays, instructions


def flops(text: str) -> int:
    """Counts the FLOPs of products in one run of a device, with every loop iteration.

    A multiplication and an addition are two. Products are those of matrices and convolutions, and
    those of the known attention kernels.
    """
    count = {"dot": _dot_flops, "convolution": _convolution_flops}
    products = (one for one in instructions(text) if one.operation in count)
    attention = sum(kernel.times * kernel.flops for kernel in kernels.kernels(text))
    return attention + sum(one.times * count[one.operation](one) for one in products)


def _dot_flops(one: Instruction) -> int:
    left = one.operand(0)
    contracted = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    inner = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * math.prod(arrays(one.shape)[0].dims) * inner


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
