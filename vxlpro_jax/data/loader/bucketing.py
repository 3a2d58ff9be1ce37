"""Batches of a few static shapes, so that short samples do not pay for long ones.

The records are split by how many groups of frames they may need, which is known without reading
their files: none for text, so many crops for pictures, what a row has for videos. Each bucket is a
pipeline of its own, and takes its turn as often as its share of the records says; whose turn it is
follows from how many batches each has given, so that all processes agree.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from vxlpro_jax.data.features.store import RunFeatures
from vxlpro_jax.data.loader.batches import Batch, BatchIterator, BatchSource
from vxlpro_jax.data.loader.samples import SampleReader
from vxlpro_jax.data.sources.load import Records, RecordSubset
from vxlpro_jax.utils.errors import InputError


def split_by_groups(
    records: Records, *, reader: SampleReader, groups: Sequence[int], least: int
) -> dict[int, Records]:
    """The records of each bucket by its groups a row.

    A record is in the first bucket that is large enough. One that cannot be read is in the last,
    where it will be named.

    Args:
        records: all of them.
        reader: of the largest bucket.
        groups: of each bucket, ascending; the last holds every record.
        least: records that a bucket must have; those of one with fewer go into the next, and the
            last, if it has fewer, takes those of the one before.
    """
    count = len(records)
    found = (_bucket(records, index, reader=reader, groups=groups) for index in range(count))
    places = np.fromiter(found, np.int16, count)
    for bucket in range(len(groups) - 1):
        if (places == bucket).sum() < least:
            places[places == bucket] = bucket + 1
    # The last cannot give its few to a larger one, so those of the one below join it.
    used = np.unique(places)
    if len(used) > 1 and (places == used[-1]).sum() < least:
        places[places == used[-2]] = used[-1]
    return {
        size: _subset(records, np.flatnonzero(places == bucket))
        for bucket, size in enumerate(groups)
        if bucket in places
    }


def _bucket(records, index, *, reader, groups) -> int:
    try:
        needed = reader.most_groups(records.outline(index))
    except InputError:
        return len(groups) - 1
    return next(bucket for bucket, size in enumerate(groups) if size >= needed)


def _subset(records: Records, indices: np.ndarray) -> Records:
    """Some of the records, still by dataset; int [n], ascending."""
    starts = np.cumsum([0, *records.counts])
    cuts = np.split(indices, np.searchsorted(indices, starts[1:-1]))
    chosen = zip(records.parts, cuts, starts[:-1], strict=True)
    parts = [RecordSubset(part, cut - start) for part, cut, start in chosen]
    return Records(parts, weights=records.weights, indices=indices)


class BucketSchedule:
    """Whose turn it is: the bucket that is furthest behind its share."""

    def __init__(self, shares: Sequence[int]):
        """Takes the `shares`, in proportion to which buckets come."""
        self._shares = tuple(shares)

    def next(self, taken: Sequence[int]) -> int:
        """The bucket's place, after each has been `taken` so often; the first of equals."""
        whole, total = sum(self._shares), sum(taken) + 1
        behind = [
            share * total - count * whole for share, count in zip(self._shares, taken, strict=True)
        ]
        return behind.index(max(behind))


class BucketIterator(grain.DatasetIterator):
    """The batches of several iterators by turns; its state is theirs and how often each came."""

    def __init__(
        self, parts: Sequence[BatchIterator], *, turns: BucketSchedule, source: BatchSource
    ):
        """Takes over the iterators.

        Args:
            parts: one for each bucket.
            turns: of these.
            source: of all records, in the largest shape.
        """
        super().__init__()
        self.parts = tuple(parts)
        self.source = source
        self._turns = turns
        self._taken = [0] * len(self.parts)

    def __next__(self) -> Batch:
        """The next batch, of whichever shape.

        Raises:
            InputError: more records are unreadable than the quota allows.
        """
        bucket = self._turns.next(self._taken)
        batch = next(self.parts[bucket])
        self._taken[bucket] += 1
        return batch

    @property
    def num_bad(self) -> int:
        """Records found unreadable so far; the buckets count them together."""
        return self.parts[0].num_bad

    def get_state(self) -> dict[str, Any]:
        """JSON-ready state."""
        buckets = [part.get_state() for part in self.parts]
        return {"groups": self._groups, "taken": list(self._taken), "buckets": buckets}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where `get_state` was called.

        Raises:
            InputError: the state is of a run with other buckets.
        """
        groups = state.get("groups")
        if groups != self._groups:
            raise InputError(
                f"The checkpoint's data has buckets of {groups} groups and data.frame_buckets now"
                f" makes {self._groups}: start the run as it was started."
            )
        self._taken = list(state["taken"])
        for part, of_part in zip(self.parts, state["buckets"], strict=True):
            part.set_state(of_part)

    @property
    def _groups(self) -> list[int]:
        return [part.source.reader.shape.groups for part in self.parts]

    def join_states(self, states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """The state of all processes from that of each."""
        states = list(states)
        buckets = zip(*(state["buckets"] for state in states), strict=True)
        joined = [
            part.join_states(of_part) for part, of_part in zip(self.parts, buckets, strict=True)
        ]
        return {**states[0], "buckets": joined}

    def read_features(self, features: RunFeatures) -> None:
        """From now on the batches hold these instead of frames."""
        for part in self.parts:
            part.read_features(features)

    def place_with(self, place: Callable[[Batch], Any]) -> None:
        """From now on batches are what `place` makes of them."""
        for part in self.parts:
            part.place_with(place)

    def start_prefetch(self) -> None:
        """Begins to read ahead."""
        for part in self.parts:
            part.start_prefetch()

    def close(self) -> None:
        """Ends worker threads and processes."""
        for part in self.parts:
            part.close()
        super().close()
