"""Records to batches: deterministic, endless, resumable, whatever the number of workers.

Batch `k` is a pure function of the config, the seed and `k`: row `i` of it holds position
`k * batch_size + i` of an endless order that shuffles all records anew each epoch. So a position is
the whole state, and neither workers nor processes change what a step sees.

Shapes: B rows of this process, G groups a row, T text slots a row, S image side.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from vxlpro_jax.config import FRAMES_PER_GROUP, DataConfig, InputError
from vxlpro_jax.data.features import FeatureFiles
from vxlpro_jax.data.images import DEFAULT_PINPOINTS
from vxlpro_jax.data.sources import Record, load_records, load_visual_records
from vxlpro_jax.data.synthetic import synthetic_set
from vxlpro_jax.data.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.tokenizer import Tokenizer
from vxlpro_jax.data.transforms import RowShape, Sample, SampleReader, stack_rows

log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]

PREFETCH_THREADS = 2
PREFETCH_BATCHES = 2


class BadSample(NamedTuple):
    """A record that could not become a sample: its index in the data file, its name, and why."""

    record: int
    name: str
    reason: str


class Loaded(NamedTuple):
    """One row: its sample (None when nothing within reach could be read) and what was skipped."""

    sample: Sample | None
    bad: list[BadSample]


class LoadedBatch(NamedTuple):
    """What a worker hands over: a batch (None when a row is missing) and what was skipped."""

    batch: Batch | None
    bad: list[BadSample]


def tokenizer_for(data: DataConfig) -> Tokenizer:
    """The tokenizer of `data.tokenizer`, or the shipped tiny one when that is empty."""
    return Tokenizer.from_folder(data.tokenizer or TINY_TOKENIZER)


def build_pipeline(
    data: DataConfig,
    *,
    image_size: int,
    seed: int,
    with_text: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    pinpoints: Any = DEFAULT_PINPOINTS,
    bad_samples_path: str | Path | None = None,
) -> "BatchIterator":
    """Endless iterator over this process's rows of every batch.

    A batch is a dict of numpy arrays, `B = data.batch_size / process_count`, one sample a row:
    frames uint8 [B,G,4,S,S,3], stamp_ids int32 [B,G,10], group_segments int32 [B,G], tokens int32
    [B,T], token_segments int32 [B,T], labels int32 [B,T]. Process `i` holds the i-th block of rows.

    Args:
        data: the data fields of the config; an empty `path` means the embedded synthetic clips.
        image_size: S, the side of the vision tower's input.
        seed: of the shuffles.
        with_text: False leaves out the text (T = 0) and the records that are nothing else.
        process_index: this process's place among `process_count`.
        process_count: how many processes share a batch.
        pinpoints: `image_grid_pinpoints` as in a release-format config.json.
        bad_samples_path: JSON lines of the records that could not be read are appended here.

    Raises:
        InputError: shapes that do not fit, a missing or malformed data file or tokenizer; and, from
            `next`, more unreadable records than `data.bad_sample_quota` allows.
    """
    rows = _rows_of_process(data, process_index, process_count)
    if data.max_frames < FRAMES_PER_GROUP or data.max_frames % FRAMES_PER_GROUP:
        raise InputError(
            f"data.max_frames is {data.max_frames}: frames are compressed in groups of"
            f" {FRAMES_PER_GROUP}, so give a positive multiple of {FRAMES_PER_GROUP}."
        )
    located = _locate(data)
    records = (load_records if with_text else load_visual_records)(located.path)
    shape = RowShape(
        groups=data.max_frames // FRAMES_PER_GROUP,
        text=data.max_text_tokens if with_text else 0,
        image_size=image_size,
    )
    reader = SampleReader.build(
        tokenizer_for(data) if with_text else None,
        shape=shape,
        video_root=located.video_root,
        image_root=located.image_root,
        pinpoints=pinpoints,
    )
    source = BatchSource(
        records=records,
        reader=reader,
        order=grain.MapDataset.range(len(records)).seed(seed).shuffle().repeat(),
        batch_size=data.batch_size,
        rows=rows,
        allowed_bad=int(data.bad_sample_quota * len(records)),
    )
    return BatchIterator(
        source,
        num_workers=data.num_workers,
        bad_samples_path=bad_samples_path,
    )


def held_out(data: DataConfig) -> DataConfig:
    """The same fields for `data.eval_path`, or for the embedded clips that training never sees.

    Raises:
        InputError: `data.path` is set but `data.eval_path` is not, or names no visual samples.
    """
    if data.path and not data.eval_path:
        raise InputError(
            "Evaluation needs clips that training does not see: set --config.data.eval_path to a"
            " data file of them, or --config.eval_every=0."
        )
    if not data.eval_path:
        synthetic = synthetic_set(Path(data.workdir_cache).expanduser())
        return dataclasses.replace(data, path=str(synthetic.eval), video_root=str(synthetic.root))
    try:
        load_visual_records(data.eval_path)
    except InputError as error:
        raise InputError(f"data.eval_path: {error}") from error
    return dataclasses.replace(data, path=data.eval_path)


def first_groups(data: DataConfig, *, image_size: int, count: int) -> np.ndarray:
    """The first `count` groups of frames, or fewer if there are no more: uint8 [n,4,S,S,3].

    Every video and image is taken once, in the order of the data file; files that cannot be read
    are named in the log and left out.

    Raises:
        InputError: a malformed data file, or nothing in it can be read.
    """
    located = _locate(data)
    shape = RowShape(groups=data.max_frames // FRAMES_PER_GROUP, text=0, image_size=image_size)
    reader = SampleReader.build(
        None,
        shape=shape,
        video_root=located.video_root,
        image_root=located.image_root,
        pinpoints=DEFAULT_PINPOINTS,
    )
    records = {(r.video, r.image): r for r in reversed(load_visual_records(located.path))}
    found: list[np.ndarray] = []
    for record in reversed(records.values()):
        if len(found) >= count:
            break
        try:
            found.extend(reader(record).groups)
        except InputError as error:
            log.warning("Skipped %s: %s", record.name, error)
    if not found:
        raise InputError(f"Of {located.path} no video and no image can be read.")
    return np.stack(found[:count])


class _Located(NamedTuple):
    path: Path
    video_root: Path
    image_root: Path


def _locate(data: DataConfig) -> _Located:
    """The data file and its roots; a root that is not given is the data file's own folder."""
    if not data.path:
        synthetic = synthetic_set(Path(data.workdir_cache).expanduser())
        return _Located(synthetic.train, synthetic.root, synthetic.root)
    path = Path(data.path).expanduser()
    return _Located(
        path,
        Path(data.video_root).expanduser() if data.video_root else path.parent,
        Path(data.image_root).expanduser() if data.image_root else path.parent,
    )


def _rows_of_process(data: DataConfig, index: int, count: int) -> range:
    if data.batch_size < 1 or data.batch_size % count:
        raise InputError(
            f"data.batch_size is {data.batch_size}: it counts the rows of all {count} process(es)"
            " together, so give a positive multiple of that."
        )
    rows = data.batch_size // count
    return range(index * rows, (index + 1) * rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSource:
    """Random access to the batches: `source[k]` reads no state and leaves none.

    `order` maps a position to a record's index; `rows` are this process's rows of a batch. A record
    that cannot be read gives its place to the next one in the order. After more than `allowed_bad`
    of them the run has to stop, so no row searches further than that.
    """

    records: Sequence[Record]
    reader: SampleReader
    order: Sequence[int]
    batch_size: int
    rows: range
    allowed_bad: int
    first: int = 0

    def __len__(self) -> int:
        return len(self.order) // self.batch_size - self.first

    def __getitem__(self, index: int) -> LoadedBatch:
        start = (self.first + index) * self.batch_size
        loaded = [self._load(start + row) for row in self.rows]
        bad = [sample for row in loaded for sample in row.bad]
        samples = [row.sample for row in loaded]
        if any(sample is None for sample in samples):
            return LoadedBatch(None, bad)
        return LoadedBatch(stack_rows(samples, shape=self.reader.shape), bad)

    def _load(self, position: int) -> Loaded:
        bad = []
        for place in range(position, position + self.allowed_bad + 1):
            index = int(self.order[place])
            record = self.records[index]
            try:
                return Loaded(self.reader(record), bad)
            except InputError as error:
                bad.append(BadSample(index, record.name, str(error)))
        return Loaded(None, bad)


class BatchIterator(grain.DatasetIterator):
    """Grain iterator over a `BatchSource`, read ahead in threads or in worker processes.

    Its state is plain JSON: the next batch's number and the records found unreadable so far. It
    does not depend on the number of workers, and Grain's Orbax handler saves and restores it.
    """

    def __init__(
        self,
        source: BatchSource,
        *,
        num_workers: int,
        bad_samples_path: str | Path | None,
    ):
        super().__init__()
        self._source = source
        self._num_workers = num_workers
        self._bad = BadSamples(source, path=bad_samples_path)
        self._next_batch = 0
        self._inner: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        """The next batch, after naming the records that it had to skip.

        Raises:
            InputError: more records are unreadable than the quota allows.
        """
        self.start_prefetch()
        loaded = next(self._inner)
        self._bad.add(loaded.bad)
        if loaded.batch is None:
            self._bad.stop()
        self._next_batch += 1
        return loaded.batch

    def get_state(self) -> dict[str, Any]:
        """JSON-ready state: the same whatever has been read ahead."""
        return {"next_batch": self._next_batch, "bad_records": sorted(self._bad.records)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where `get_state` was called."""
        self._close_inner()
        self._next_batch = state["next_batch"]
        self._bad.records = set(state["bad_records"])

    @property
    def source(self) -> BatchSource:
        """What the batches are made of."""
        return self._source

    def read_features(self, files: FeatureFiles) -> None:
        """From now on the batches hold these instead of frames."""
        self._close_inner()
        reader = dataclasses.replace(self._source.reader, features=files)
        self._source = dataclasses.replace(self._source, reader=reader)

    def start_prefetch(self) -> None:
        """Begins to read ahead; `next` does so by itself."""
        if self._inner is None:
            source = dataclasses.replace(self._source, first=self._next_batch)
            self._inner = iter(_read_ahead(source, self._num_workers))
            self._inner.start_prefetch()

    def close(self) -> None:
        """Ends worker threads and processes."""
        self._close_inner()
        super().close()

    def _close_inner(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None


def _read_ahead(source: BatchSource, num_workers: int) -> grain.IterDataset:
    threads = 1 if num_workers else PREFETCH_THREADS
    buffered = 1 if num_workers else PREFETCH_BATCHES
    batches = grain.MapDataset.source(source).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered)
    )
    if not num_workers:
        return batches
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own, also where main has none.
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=1)
    return batches.mp_prefetch(options)


class BadSamples:
    """Names and counts the records that could not be read."""

    def __init__(self, source: BatchSource, *, path: str | Path | None):
        self.records: set[int] = set()
        self._source = source
        self._path = Path(path) if path else None
        self._last = ""

    def add(self, bad: Sequence[BadSample]) -> None:
        """Logs and lists what is new.

        Raises:
            InputError: the quota is passed.
        """
        for sample in bad:
            if sample.record in self.records:
                continue
            self.records.add(sample.record)
            self._last = f"{sample.name}: {sample.reason}"
            log.warning("Skipped %s", self._last)
            self._list(sample)
        if len(self.records) > self._source.allowed_bad:
            self.stop()

    def stop(self) -> None:
        """Ends the run.

        Raises:
            InputError: always.
        """
        where = f" (all are listed in {self._path})" if self._path else ""
        raise InputError(
            f"{len(self.records)} of {len(self._source.records)} records could not be read, more"
            f" than the {self._source.allowed_bad} that data.bad_sample_quota allows{where}. Mend"
            f" or remove them, or raise the quota. The last was {self._last}"
        )

    def _list(self, sample: BadSample) -> None:
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(sample._asdict(), ensure_ascii=False) + "\n")
