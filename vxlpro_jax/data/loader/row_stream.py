"""Streams of samples, one per row of the batches.

Row `r` of `B` takes positions r, r + B, r + 2B ... of the order of all records, and skips
unreadable records. A row therefore depends neither on other rows nor on the number of workers or
processes. Its state is the position in its stream and the samples held for the next row.
"""

import dataclasses
from typing import NamedTuple

import grain

from vxlpro_jax.data.loader.bad_samples import BadSample, describe_fault
from vxlpro_jax.data.loader.packing import Size, fill_row
from vxlpro_jax.data.loader.samples import Sample, SampleReader
from vxlpro_jax.data.random_access import RandomAccess
from vxlpro_jax.data.sources.schema import Record
from vxlpro_jax.utils.errors import InputError

_SAMPLES_AHEAD = 2


class RowState(NamedTuple):
    """State of a row's stream.

    Attributes:
        next: number of the next sample to read.
        held: numbers of samples that were read earlier and are held for a later row.
    """

    next: int = 0
    held: tuple[int, ...] = ()


class PackedRow(NamedTuple):
    """A row of a batch.

    Attributes:
        samples: samples of the row; empty if too many records were unreadable.
        files: files that the samples show; for a text-only sample, the place of its record.
        bad: records that were skipped.
        state: state of the stream after the row.
    """

    samples: list[Sample]
    files: list[str]
    bad: list[BadSample]
    state: RowState


class StreamItem(NamedTuple):
    """One position of a stream: a sample and its files, or the reason why there is none."""

    number: int
    sample: Sample | None = None
    files: tuple[str, ...] = ()
    bad: BadSample | None = None

    @property
    def size(self) -> Size:
        """Size of the sample."""
        assert self.sample is not None
        return self.sample.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowSource(RandomAccess[StreamItem]):
    """Random access to a row's stream, without state.

    Attributes:
        records: all records.
        order: endless order of record indices.
        reader: reader that makes samples of records.
        row: index of the row in the batch.
        batch_size: rows of a batch.
        first: offset added to every index.
    """

    records: RandomAccess[Record]
    order: RandomAccess[int]
    reader: SampleReader
    row: int
    batch_size: int
    first: int = 0

    def __len__(self) -> int:
        return (len(self.order) - self.row) // self.batch_size - self.first

    def __getitem__(self, index: int) -> StreamItem:
        number = self.first + index
        record = int(self.order[number * self.batch_size + self.row])
        name = f"record {record}"
        try:
            content = self.records[record]
            name = content.name
            return StreamItem(number, sample=self.reader(content), files=_files(content))
        except InputError as error:
            return StreamItem(number, bad=describe_fault(error, record=record, name=name))


def _files(record: Record) -> tuple[str, ...]:
    return record.images or (record.video or record.name,)


class RowStream:
    """Reads a row's samples ahead in its own thread, and packs them."""

    def __init__(self, source: RowSource, *, state: RowState, budget: Size, most_bad: int):
        """Continues a stream.

        Args:
            source: samples of the row.
            state: state to continue from.
            budget: size of an empty row.
            most_bad: number of records that may be unreadable; less than the number of records.
        """
        self._source, self._budget, self._most_bad = source, budget, most_bad
        self._held: list[StreamItem] | None = None
        self._state = state
        ahead = grain.MapDataset.source(dataclasses.replace(source, first=state.next))
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_SAMPLES_AHEAD)
        self._ahead = iter(ahead.to_iter_dataset(options))
        self._ahead.start_prefetch()

    def take(self) -> PackedRow:
        """Returns the next row."""
        bad: dict[int, BadSample] = {}
        if self._held is None:
            again = [self._source[number] for number in self._state.held]
            bad |= {drawn.bad.record: drawn.bad for drawn in again if drawn.bad}
            self._held = [drawn for drawn in again if drawn.sample]
        read = self._state.next

        def draw() -> StreamItem:
            nonlocal read
            while len(bad) <= self._most_bad:
                drawn = next(self._ahead)
                read = drawn.number + 1
                if drawn.bad is None:
                    return drawn
                bad[drawn.bad.record] = drawn.bad
            raise _TooManyBadError

        try:
            row = fill_row(self._held, draw, budget=self._budget)
        except _TooManyBadError:
            return PackedRow([], [], list(bad.values()), self._state)
        self._state = RowState(read, tuple(drawn.number for drawn in self._held))
        samples = [drawn.sample for drawn in row if drawn.sample is not None]
        files = [file for drawn in row for file in drawn.files]
        return PackedRow(samples, files, list(bad.values()), self._state)

    def close(self) -> None:
        """Stops the thread."""
        self._ahead.close()


class _TooManyBadError(Exception):
    """More records are unreadable than allowed."""
