"""Transforms one torch array to one parameter, and back.

Every transform only moves axes, so it works on views, is lossless and has an exact inverse. Torch
orders dense weights (out, in) and convolutions (out, in, ...space); parameters put `in, out` last.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np


class Transform(Protocol):
    """A reordering of axes with its inverse."""

    def to_param(self, array: np.ndarray) -> np.ndarray:
        """Reorders torch's axes to the parameter's."""
        ...

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Reorders the parameter's axes to torch's."""
        ...


@dataclasses.dataclass(frozen=True)
class Permute:
    """Permutes axes: parameter axis i is torch axis `order[i]`."""

    order: tuple[int, ...]

    def to_param(self, array: np.ndarray) -> np.ndarray:
        """Reorders the axes."""
        return array.transpose(self.order)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Restores the order."""
        return array.transpose(np.argsort(self.order))


@dataclasses.dataclass(frozen=True)
class DropTrailing:
    """Drops the last `count` axes of size one: the spatial axes of a 1x1 convolution."""

    count: int

    def to_param(self, array: np.ndarray) -> np.ndarray:
        """Drops these axes."""
        return array.reshape(array.shape[: -self.count])

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Appends these axes."""
        return array.reshape(array.shape + (1,) * self.count)


@dataclasses.dataclass(frozen=True)
class FlattenPatch:
    """(patch row, patch column, rgb, out) <-> (row * column * rgb, out), for square patches."""

    def to_param(self, array: np.ndarray) -> np.ndarray:
        """Joins the first three axes."""
        return array.reshape(-1, array.shape[-1])

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Splits the first axis."""
        side = math.isqrt(array.shape[0] // 3)
        return array.reshape(side, side, 3, array.shape[-1])


@dataclasses.dataclass(frozen=True)
class Chain:
    """Applies transforms one after another, in the direction to the parameter."""

    parts: tuple[Transform, ...]

    def to_param(self, array: np.ndarray) -> np.ndarray:
        """Applies the parts in order."""
        for part in self.parts:
            array = part.to_param(array)
        return array

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Inverts the parts, the last one first."""
        for part in reversed(self.parts):
            array = part.to_torch(array)
        return array


IDENTITY = Chain(())
LINEAR = Permute((1, 0))
POINTWISE_CONV_1D = Chain((DropTrailing(1), LINEAR))
POINTWISE_CONV_3D = Chain((DropTrailing(3), LINEAR))
CONV_3D = Permute((2, 3, 4, 1, 0))
PATCH_CONV = Chain((Permute((2, 3, 1, 0)), FlattenPatch()))


def torch_shape(transform: Transform, param_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the torch shape of a parameter of `param_shape`, without allocating memory."""
    return transform.to_torch(np.broadcast_to(np.int8(0), param_shape)).shape


_STRIP = 64


def copy_bits(target: np.ndarray, source: np.ndarray) -> None:
    """Copies a reordered view of the same shape and dtype into a contiguous array.

    This is three times faster than an assignment: strips of the last axis stay in the processor's
    cache, and NumPy moves integers faster than bfloat16.
    """
    integer = f"u{source.dtype.itemsize}"
    source, target = source.view(integer), target.view(integer)
    for start in range(0, source.shape[-1], _STRIP):
        target[..., start : start + _STRIP] = source[..., start : start + _STRIP]


def contiguous(array: np.ndarray) -> np.ndarray:
    """Returns the array itself, or a contiguous copy."""
    if array.flags.c_contiguous:
        return array
    copy = np.empty(array.shape, array.dtype)
    copy_bits(copy, array)
    return copy
