"""Batches of one shape, prepared one step ahead of their use.

Each row `r` of a batch is a separate stream (see `row_stream`). Therefore the number of workers or
processes does not change the batches, and any number of processes can continue a checkpoint
written by any other number.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import grain
import numpy as np

from vxlpro_jax.config.schema import IGNORE_LABEL, STAMP_TOKENS
from vxlpro_jax.data.features.store import RunFeatures
from vxlpro_jax.data.loader.bad_samples import BadSample, BadSamples
from vxlpro_jax.data.loader.packing import Size
from vxlpro_jax.data.loader.row_stream import RowSource, RowState, RowStream
from vxlpro_jax.data.loader.samples import RowShape, Sample, SampleReader
from vxlpro_jax.data.random_access import RandomAccess
from vxlpro_jax.data.sources.load import Records

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSource:
    """The inputs from which batches are made.

    Attributes:
        records: all records.
        reader: reader that makes samples of records.
        order: endless order of record indices.
        batch_size: global number of rows, over all processes.
        rows: rows of this process.
        samples_per_row: largest number of samples in a row.
        allowed_bad: number of records that may be unreadable.
    """

    records: Records
    reader: SampleReader
    order: RandomAccess[int]
    batch_size: int
    rows: range
    samples_per_row: int
    allowed_bad: int

    def stream(self, row: int, *, state: RowState) -> RowStream:
        """Returns the stream of one row, starting at `state`."""
        source = RowSource(
            records=self.records,
            order=self.order,
            reader=self.reader,
            row=row,
            batch_size=self.batch_size,
        )
        shape = self.reader.shape
        # Samples without text always fit into a row without text slots.
        budget = Size(groups=shape.groups, text=shape.text, samples=self.samples_per_row)
        return RowStream(source, state=state, budget=budget, most_bad=self.allowed_bad)


class _Made(NamedTuple):
    """A prepared batch.

    Attributes:
        batch: batch; None if a row is missing.
        files: files of its samples.
        bad: records that were skipped.
        states: states of the rows after the batch.
    """

    batch: Any | None
    files: tuple[str, ...]
    bad: list[BadSample]
    states: dict[int, RowState]


class BatchIterator(grain.DatasetIterator):
    """Batches of a `BatchSource`, prepared one step ahead.

    The state consists of JSON values: the states of the rows, and the bad records so far. It does
    not depend on the number of workers nor, after `join_states`, on the number of processes.

    Attributes:
        files: files of the samples in the batch that the last `next` returned.
    """

    def __init__(self, source: BatchSource, *, bad: BadSamples):
        """Starts at the first record; the iterators of several buckets share one `bad`."""
        super().__init__()
        self.files: tuple[str, ...] = ()
        self._source, self._bad = source, bad
        self._states = dict.fromkeys(source.rows, RowState())
        self._place: Callable[[Batch], Any] = lambda batch: batch
        self._streams: dict[int, RowStream] = {}
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: Future[_Made] | None = None

    def __next__(self) -> Batch:
        """Returns the next batch, after reporting the records that were skipped.

        Raises:
            InputError: More records are unreadable than data.bad_sample_quota allows.
        """
        self.start_prefetch()
        assert self._ahead is not None
        made = self._ahead.result()
        self._bad.add(made.bad)
        if made.batch is None:
            self._bad.stop()
        self._states, self.files = made.states, made.files
        self._ahead = self._maker.submit(self._make)
        return made.batch

    def get_state(self) -> dict[str, Any]:
        """Returns the state as JSON values; batches prepared ahead do not affect it."""
        rows = {str(row): [state.next, *state.held] for row, state in self._states.items()}
        return {"rows": rows, "bad_records": sorted(self._bad.records)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where `get_state` was called, here or in other processes."""
        self._stop()
        found = {row: state["rows"][str(row)] for row in self._source.rows}
        self._states = {row: RowState(first, tuple(held)) for row, (first, *held) in found.items()}
        self._bad.records = set(state["bad_records"])

    @staticmethod
    def join_states(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Merges the states of all processes into one."""
        rows: dict[str, list[int]] = {}
        bad: set[int] = set()
        for state in states:
            rows |= state["rows"]
            bad |= set(state["bad_records"])
        return {"rows": rows, "bad_records": sorted(bad)}

    @property
    def num_bad(self) -> int:
        """Number of bad records so far."""
        return len(self._bad.records)

    @property
    def parts(self) -> tuple["BatchIterator", ...]:
        """Iterators over batches of one shape; here, only this iterator."""
        return (self,)

    @property
    def source(self) -> BatchSource:
        """The inputs from which the batches are made."""
        return self._source

    def read_features(self, features: RunFeatures) -> None:
        """Switches batches to stored features instead of frames, from now on."""
        self._stop()
        reader = dataclasses.replace(self._source.reader, features=features)
        self._source = dataclasses.replace(self._source, reader=reader)

    def place_with(self, place: Callable[[Batch], Any]) -> None:
        """Applies `place` to every batch from now on, including those prepared ahead."""
        self._stop()
        self._place = place

    def start_prefetch(self) -> None:
        """Starts preparing the next batch; `next` also does this."""
        if self._ahead is None:
            self._streams = {
                row: self._source.stream(row, state=state) for row, state in self._states.items()
            }
            self._ahead = self._maker.submit(self._make)

    def close(self) -> None:
        """Stops worker threads and processes."""
        if decoders := self._source.reader.read_video.decoders:
            decoders.close()
        self._stop()
        self._maker.shutdown()
        super().close()

    def _make(self) -> _Made:
        rows = {row: stream.take() for row, stream in self._streams.items()}
        indices = self._source.records.indices
        bad = [
            sample._replace(record=int(indices[sample.record]))
            for row in rows.values()
            for sample in row.bad
        ]
        states = {number: row.state for number, row in rows.items()}
        if not all(row.samples for row in rows.values()):
            return _Made(None, (), bad, states)
        samples = [row.samples for row in rows.values()]
        batch = stack_rows(samples, shape=self._source.reader.shape)
        files = tuple(file for row in rows.values() for file in row.files)
        return _Made(self._place(batch), files, bad, states)

    def _stop(self) -> None:
        """Discards the batch prepared ahead."""
        if self._ahead is not None:
            if not self._ahead.cancel():
                wait([self._ahead])
            for stream in self._streams.values():
                stream.close()
            self._streams, self._ahead = {}, None


def stack_rows(rows: Sequence[Sequence[Sample]], *, shape: RowShape) -> dict[str, np.ndarray]:
    """Concatenates the samples of each row and pads them to a batch; see `build.build_pipeline`.

    Segments count from 1; 0 is padding. Samples with features make a batch with `features`, or with
    `compressed` if the features come from the DTS, instead of `frames`.
    """
    count, groups, text, first = len(rows), shape.groups, shape.text, rows[0][0].groups
    visuals = {5: "frames", 4: "features", 3: "compressed"}[first.ndim]
    batch = {
        visuals: np.zeros((count, groups, *first.shape[1:]), first.dtype),
        "stamp_ids": np.zeros((count, groups, STAMP_TOKENS), np.int32),
        "group_segments": np.zeros((count, groups), np.int32),
        "tokens": np.zeros((count, text), np.int32),
        "token_segments": np.zeros((count, text), np.int32),
        "labels": np.full((count, text), IGNORE_LABEL, np.int32),
    }
    for row, samples in enumerate(rows):
        start = Size(groups=0, text=0)
        for segment, sample in enumerate(samples, 1):
            seen = slice(start.groups, start.groups + sample.size.groups)
            spoken = slice(start.text, start.text + sample.size.text)
            batch[visuals][row, seen] = sample.groups
            batch["stamp_ids"][row, seen] = sample.stamp_ids
            batch["group_segments"][row, seen] = segment
            batch["tokens"][row, spoken] = sample.tokens
            batch["token_segments"][row, spoken] = segment
            batch["labels"][row, spoken] = sample.labels
            start = Size(groups=seen.stop, text=spoken.stop)
    return batch
