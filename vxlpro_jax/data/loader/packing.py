"""Which samples share a row, from their sizes alone.

A row is filled from a stream of samples in their order. What does not fit any more is held for the
next row, which begins with the oldest that is held, so that every sample has its turn.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

# A row looks no further once so many samples are held, or so many rows' worth of groups.
_MOST_HELD = 16
_MOST_ROWS_HELD = 3


class Size(NamedTuple):
    """Of a sample or of what a row has left: groups of frames, text ids, samples."""

    groups: int
    text: int
    samples: int = 1

    def holds(self, other: "Size") -> bool:
        """Whether there is room for the other."""
        return all(own >= needed for own, needed in zip(self, other, strict=True))

    def less(self, other: "Size") -> "Size":
        """What is left beside the other."""
        return Size(*(own - used for own, used in zip(self, other, strict=True)))


class Sized(Protocol):
    """What has a size."""

    @property
    def size(self) -> Size:
        """Size of the sample."""
        ...


Item = TypeVar("Item", bound=Sized)


def fill_row(held: list[Item], draw: Callable[[], Item], *, budget: Size) -> list[Item]:
    """The samples of the next row, each the first that fits.

    Args:
        held: samples that earlier rows left, oldest first; those that this one leaves replace them.
        draw: gives the stream's next sample, none of which is larger than the budget.
        budget: of an empty row.
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
