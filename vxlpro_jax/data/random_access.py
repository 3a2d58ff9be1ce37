"""The type of collections that are read by index, such as data files larger than memory."""

from collections.abc import Iterator
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class RandomAccess(Protocol[T_co]):
    """A sized collection that is read by index; unlike a `Sequence` it has no slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...

    def __iter__(self) -> Iterator[T_co]:
        return (self[index] for index in range(len(self)))
