"""Batches of a few static shapes, to avoid padding short samples to the longest length.

Records are split by the largest number of groups of frames that they may need, which is known
without reading their files: none for text, the number of crops for pictures, and a full row for
videos of unknown duration. Each bucket has its own pipeline. Buckets alternate in proportion to
their number of records; the choice depends only on the number of batches that each has produced, so
all processes agree.
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
    """Returns the records of each bucket, keyed by its groups per row.

    A record goes to the smallest bucket that is large enough. An unreadable record goes to the last
    bucket, which will report it.

    Args:
        records: all records.
        reader: reader with the shape of the largest bucket.
        groups: groups per row of each bucket, ascending; the last bucket can hold every record.
        least: smallest number of records in a bucket; smaller buckets are merged into the next, and
            a last bucket that is too small takes the records of the one before.
    """
    count = len(records)
    found = (_bucket(records, index, reader=reader, groups=groups) for index in range(count))
    places = np.fromiter(found, np.int16, count)
    for bucket in range(len(groups) - 1):
        if (places == bucket).sum() < least:
            places[places == bucket] = bucket + 1
    # The last bucket has no larger one to merge into, so it takes the records of the one below.
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
    """Returns the records at `indices` (int [n], ascending), still divided by data set."""
    starts = np.cumsum([0, *records.counts])
    cuts = np.split(indices, np.searchsorted(indices, starts[1:-1]))
    chosen = zip(records.parts, cuts, starts[:-1], strict=True)
    parts = [RecordSubset(part, cut - start) for part, cut, start in chosen]
    return Records(parts, weights=records.weights, indices=indices)


class BucketSchedule:
    """Chooses the bucket that is furthest behind its share."""

    def __init__(self, shares: Sequence[int]):
        """Stores the relative `shares` of the buckets."""
        self._shares = tuple(shares)

    def next(self, taken: Sequence[int]) -> int:
        """Returns the next bucket, given the batches taken from each; ties go to the first."""
        whole, total = sum(self._shares), sum(taken) + 1
        behind = [
            share * total - count * whole for share, count in zip(self._shares, taken, strict=True)
        ]
        return behind.index(max(behind))


class BucketIterator(grain.DatasetIterator):
    """Alternates between iterators; its state holds their states and the batches taken from each.

    Attributes:
        files: files of the samples in the batch that the last `next` returned.
    """

    def __init__(
        self, parts: Sequence[BatchIterator], *, schedule: BucketSchedule, source: BatchSource
    ):
        """Takes ownership of the iterators.

        Args:
            parts: iterator of each bucket.
            schedule: order of the buckets.
            source: source of all records, with the largest shape.
        """
        super().__init__()
        self.parts = tuple(parts)
        self.source = source
        self.files: tuple[str, ...] = ()
        self._schedule = schedule
        self._taken = [0] * len(self.parts)

    def __next__(self) -> Batch:
        """Returns the next batch, in one of the buckets' shapes.

        Raises:
            InputError: More records are unreadable than data.bad_sample_quota allows.
        """
        bucket = self._schedule.next(self._taken)
        batch = next(self.parts[bucket])
        self.files = self.parts[bucket].files
        self._taken[bucket] += 1
        return batch

    @property
    def num_bad(self) -> int:
        """Number of bad records so far; all buckets share the count."""
        return self.parts[0].num_bad

    def get_state(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        buckets = [part.get_state() for part in self.parts]
        return {"groups": self._groups, "taken": list(self._taken), "buckets": buckets}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where `get_state` was called.

        Raises:
            InputError: The state belongs to a run with other buckets.
        """
        groups = state.get("groups")
        if groups != self._groups:
            raise InputError(
                f"The checkpoint's data has buckets of {groups} groups, but data.frame_buckets now"
                f" makes {self._groups}: use the setting with which the run was started."
            )
        self._taken = list(state["taken"])
        for part, of_part in zip(self.parts, state["buckets"], strict=True):
            part.set_state(of_part)

    @property
    def _groups(self) -> list[int]:
        return [part.source.reader.shape.groups for part in self.parts]

    def join_states(self, states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Merges the states of all processes into one."""
        states = list(states)
        buckets = zip(*(state["buckets"] for state in states), strict=True)
        joined = [
            part.join_states(of_part) for part, of_part in zip(self.parts, buckets, strict=True)
        ]
        return {**states[0], "buckets": joined}

    def read_features(self, features: RunFeatures) -> None:
        """Switches batches to stored features instead of frames, from now on."""
        for part in self.parts:
            part.read_features(features)

    def place_with(self, place: Callable[[Batch], Any]) -> None:
        """Applies `place` to every batch from now on."""
        for part in self.parts:
            part.place_with(place)

    def start_prefetch(self) -> None:
        """Starts preparing batches ahead."""
        for part in self.parts:
            part.start_prefetch()

    def close(self) -> None:
        """Stops worker threads and processes."""
        for part in self.parts:
            part.close()
        super().close()
