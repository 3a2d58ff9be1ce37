"""Decides which samples share a row, from their sizes alone.

The samples of a stream fill a row in order. A sample that does not fit is held for the next row,
which starts with the oldest held sample, so that no sample is lost.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

# A row is closed once this many samples, or the groups of this many full rows, are held back.
_MOST_HELD = 16
_MOST_ROWS_HELD = 3


class Size(NamedTuple):
    """Size of a sample, or space in a row: groups of frames, text ids and samples."""

    groups: int
    text: int
    samples: int = 1

    def holds(self, other: "Size") -> bool:
        """Returns whether an item of another size fits."""
        return all(own >= needed for own, needed in zip(self, other, strict=True))

    def less(self, other: "Size") -> "Size":
        """Returns the space that remains beside an item of another size."""
        return Size(*(own - used for own, used in zip(self, other, strict=True)))


class Sized(Protocol):
    """An item with a size."""

    @property
    def size(self) -> Size:
        """Size of the sample."""
        ...


Item = TypeVar("Item", bound=Sized)


def fill_row(held: list[Item], draw: Callable[[], Item], *, budget: Size) -> list[Item]:
    """Returns the samples of the next row: in order, each one that still fits.

    Args:
        held: samples left over by earlier rows, oldest first; replaced by those left over now.
        draw: function that returns the stream's next sample, which must fit into an empty row.
        budget: size of an empty row.
    """
    row, left, passed, waiting = [], budget, [], list(held)
    while left.samples and left.groups and not _is_full(passed, budget):
        item = waiting.pop(0) if waiting else draw()
        if left.holds(item.size):
            row.append(item)
            left = left.less(item.size)
        else:
            passed.append(item)
    held[:] = passed + waiting
    return row


def _is_full(held: list[Item], budget: Size) -> bool:
    groups = sum(item.size.groups for item in held)
    return len(held) >= _MOST_HELD or groups >= _MOST_ROWS_HELD * budget.groups
