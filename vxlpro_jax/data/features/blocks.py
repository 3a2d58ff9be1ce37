"""Visuals in blocks of a few groups, and their serialization.

A serialized block is the times of its groups, float64, followed by the groups; both are
little-endian.

Shapes: g groups of a visual or of one of its blocks, S side of a frame.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

_TIME = np.dtype("<f8")
_DTYPES = {"float32": np.dtype("<f4"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Visual(NamedTuple):
    """The content of a video or image, or a block of it.

    Attributes:
        groups: frames, uint8 [g,4,S,S,3], or features of them, [g,...].
        times: float64 [g], time of each group's first frame in seconds.
    """

    groups: np.ndarray
    times: np.ndarray

    def to_bytes(self) -> bytes:
        """Serializes the block for `GroupType.from_bytes`."""
        return self.times.astype(_TIME).tobytes() + self.groups.tobytes()


class GroupType(NamedTuple):
    """The type of one group's features.

    Attributes:
        shape: shape of a group.
        dtype: `float32` or `bfloat16`.
    """

    shape: tuple[int, ...]
    dtype: str

    def blank(self, groups: int) -> Visual:
        """Allocates uninitialized arrays for `groups` groups and their times."""
        shape = (groups, *self.shape)
        return Visual(np.empty(shape, _DTYPES[self.dtype]), np.empty(groups))

    def from_bytes(self, data: bytes) -> Visual:
        """Deserializes the result of `Visual.to_bytes`; the arrays are read-only."""
        groups = len(data) // self.bytes
        times = np.frombuffer(data, _TIME, groups)
        values = np.frombuffer(data, _DTYPES[self.dtype], offset=times.nbytes)
        return Visual(values.reshape(groups, *self.shape), times)

    @property
    def bytes(self) -> int:
        """Size of a group with its time, in bytes."""
        return _TIME.itemsize + math.prod(self.shape) * _DTYPES[self.dtype].itemsize


def check_blocks(blocks: Iterable[Visual], *, kind: GroupType) -> Iterator[Visual]:
    """Yields the blocks after checking their type.

    Raises:
        ValueError: A block has another type.
    """
    for block in blocks:
        found = GroupType(block.groups.shape[1:], block.groups.dtype.name)
        if found != kind or len(block.groups) != len(block.times):
            raise ValueError(f"Features {found} with {len(block.times)} times are no {kind}.")
        yield block


def rebatch(blocks: Iterable[Visual], size: int) -> Iterator[Visual]:
    """Yields the same groups in blocks of `size`; the last block may have fewer."""
    held: Visual | None = None
    for block in blocks:
        joined = block if held is None else map(np.concatenate, zip(held, block, strict=True))
        held = Visual(*joined)
        while len(held.times) >= size:
            yield Visual(*(part[:size] for part in held))
            held = Visual(*(part[size:] for part in held))
    if held is not None and len(held.times):
        yield held
