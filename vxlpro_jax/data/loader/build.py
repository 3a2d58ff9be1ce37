"""Builds the input pipeline: deterministic, endless, and resumable with any number of workers.

Records are reshuffled in every epoch, without end. The config becomes one `BatchSource`, or one per
bucket, from which `batches` makes batches.

Shapes: B rows of this process, G groups a row, T text slots a row, S image side.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, DataConfig
from vxlpro_jax.data.loader import bucketing
from vxlpro_jax.data.loader.bad_samples import BadSamples
from vxlpro_jax.data.loader.batches import BatchIterator, BatchSource
from vxlpro_jax.data.loader.bucketing import BucketIterator, BucketSchedule
from vxlpro_jax.data.loader.media_check import check_roots
from vxlpro_jax.data.loader.samples import RowShape, SampleReader, VideoReader
from vxlpro_jax.data.loader.shuffle import epoch_length, record_order
from vxlpro_jax.data.sources.load import Records, join_records, load_records, load_visual_records
from vxlpro_jax.data.synthetic import haystacks
from vxlpro_jax.data.synthetic.clips import synthetic_set
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.data.video.images import DEFAULT_PINPOINTS
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.utils.errors import InputError

log = logging.getLogger(__name__)

_MOST_ROWS = 4096
_BATCHES_IN_MEMORY = 2  # The one in use, and the one being prepared.


def tokenizer_for(data: DataConfig) -> Tokenizer:
    """Returns the tokenizer of `data.tokenizer`, or the shipped tiny one if that is empty."""
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
) -> BatchIterator | BucketIterator:
    """Returns an endless iterator over this process's rows of every batch.

    A batch is a dict of numpy arrays with `B = data.batch_size / process_count`: frames uint8
    [B,G,4,S,S,3], stamp_ids int32 [B,G,10], group_segments int32 [B,G], tokens int32 [B,T],
    token_segments int32 [B,T], labels int32 [B,T]. Segments number the samples of a row from 1; 0
    is padding. Process `i` holds the i-th block of rows. With `data.frame_buckets`, G varies
    between batches.

    Args:
        data: data fields of the config; an empty `path` means the embedded synthetic clips.
        image_size: S, the side of the vision tower's input.
        seed: seed of shuffling.
        with_text: whether to read text; if not, T is 0 and records without a visual are left out.
        process_index: index of this process.
        process_count: number of processes that share a batch.
        pinpoints: `image_grid_pinpoints` as in a release-format config.json.
        bad_samples_path: file to which unreadable records are appended as JSON lines.

    Raises:
        InputError: Shapes do not fit together, or a data file or tokenizer is missing or malformed.
            `next` raises it if more records are unreadable than `data.bad_sample_quota` allows.
    """
    rows = _rows_of_process(data, process_index, process_count)
    reader = _sample_reader(
        data, rows=len(rows), image_size=image_size, with_text=with_text, pinpoints=pinpoints
    )
    records = _load(data, load_records if with_text else load_visual_records, seed=seed)
    make_source = functools.partial(_source, data, rows=rows, seed=seed)
    whole = make_source(records, reader)
    bad = BadSamples(
        total=len(records),
        allowed=whole.allowed_bad,
        path=Path(bad_samples_path) if bad_samples_path else None,
    )
    if not data.frame_buckets:
        return BatchIterator(whole, bad=bad)
    buckets = _buckets(data, records, reader=reader)
    parts = [
        BatchIterator(_bucket_source(make_source, whole, some, groups=groups), bad=bad)
        for groups, some in buckets.items()
    ]
    sizes = [epoch_length(some.counts, weights=some.weights) for some in buckets.values()]
    return BucketIterator(parts, schedule=BucketSchedule(sizes), source=whole)


def _sample_reader(
    data: DataConfig, *, rows: int, image_size: int, with_text: bool, pinpoints: Any
) -> SampleReader:
    shape = RowShape(
        groups=_groups(data.max_frames, name="max_frames"),
        text=data.max_text_tokens if with_text else 0,
        image_size=image_size,
    )
    _check_memory(data, rows=rows, shape=shape)
    return SampleReader.build(
        tokenizer_for(data) if with_text else None,
        shape=shape,
        pinpoints=pinpoints,
        read_video=_video_reader(data, image_size=image_size),
    )


def _check_memory(data: DataConfig, *, rows: int, shape: RowShape) -> None:
    """Refuses a process's batches if they cannot fit into the machine's memory."""
    frames = shape.groups * FRAMES_PER_GROUP * shape.image_size**2 * 3
    needed = _BATCHES_IN_MEMORY * rows * (frames + 3 * 4 * shape.text)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"Two batches of data.batch_size {data.batch_size}, data.max_frames {data.max_frames}"
            f" and data.max_text_tokens {data.max_text_tokens} take {needed / 2**30:.0f} GiB of"
            f" memory, and this machine has {there / 2**30:.0f}: lower these."
        )


def _bucket_source(
    make_source: Callable[..., BatchSource], whole: BatchSource, records: Records, *, groups: int
) -> BatchSource:
    """Makes the source of one bucket; it allows fewer bad records than the bucket has records."""
    shape = dataclasses.replace(whole.reader.shape, groups=groups)
    source = make_source(records, dataclasses.replace(whole.reader, shape=shape))
    allowed_bad = min(whole.allowed_bad, len(records) - 1)
    return dataclasses.replace(source, allowed_bad=allowed_bad)


def _source(
    data: DataConfig, records: Records, reader: SampleReader, *, rows: range, seed: int
) -> BatchSource:
    return BatchSource(
        records=records,
        reader=reader,
        order=record_order(records.counts, weights=records.weights, seed=seed),
        batch_size=data.batch_size,
        rows=rows,
        samples_per_row=_at_least_one(data.samples_per_row, name="samples_per_row"),
        allowed_bad=min(int(data.bad_sample_quota * len(records)), len(records) - 1),
    )


def _buckets(data: DataConfig, records: Records, *, reader: SampleReader) -> dict[int, Records]:
    """Returns the records of each bucket, keyed by its groups per row."""
    if data.samples_per_row != 1:
        raise InputError(
            f"data.frame_buckets is {data.frame_buckets} and data.samples_per_row"
            f" {data.samples_per_row}: packing fills rows of one shape already, so choose one of"
            " the two."
        )
    sizes = sorted({_groups(frames, name="frame_buckets") for frames in data.frame_buckets})
    if sizes[-1] > reader.shape.groups:
        raise InputError(
            f"data.frame_buckets has {FRAMES_PER_GROUP * sizes[-1]}, more than data.max_frames"
            f" ({data.max_frames}), which is always the largest bucket: remove it."
        )
    sizes = sorted({*sizes, reader.shape.groups})
    return bucketing.split_by_groups(records, reader=reader, groups=sizes, least=data.batch_size)


def _video_reader(data: DataConfig, *, image_size: int) -> VideoReader:
    most = data.frames_per_sample or data.max_frames
    if most > data.max_frames:
        raise InputError(
            f"data.frames_per_sample is {most}, more than the {data.max_frames} of a row: lower it"
            " or raise data.max_frames."
        )
    pool = None
    if data.num_workers:
        pool = DecoderPool(data.num_workers, time_limit=data.seconds_per_file)
    return VideoReader(
        max_frames=FRAMES_PER_GROUP * _groups(most, name="frames_per_sample"),
        size=image_size,
        fps=data.fps or None,
        decoders=pool,
    )


def _groups(frames: int, *, name: str) -> int:
    if frames < FRAMES_PER_GROUP or frames % FRAMES_PER_GROUP:
        raise InputError(
            f"data.{name} is {frames}: frames are compressed in groups of {FRAMES_PER_GROUP}, so"
            f" give a positive multiple of {FRAMES_PER_GROUP}."
        )
    return frames // FRAMES_PER_GROUP


def _at_least_one(value: int, *, name: str) -> int:
    if value < 1:
        raise InputError(f"data.{name} is {value}: give 1 or more.")
    return value


def evaluation_data(data: DataConfig) -> DataConfig:
    """Returns the data config for `data.eval_path`, or for the embedded held-out clips.

    Raises:
        InputError: `data.path` is set but `data.eval_path` is not, or it has no visual samples.
    """
    if data.path and not data.eval_path:
        raise InputError(
            "Evaluation needs clips that training does not see: set --config.data.eval_path to a"
            " data file of them, or --config.eval_every=0."
        )
    if not data.eval_path:
        synthetic = synthetic_set(Path(data.cache_dir).expanduser())
        return dataclasses.replace(data, path=str(synthetic.eval), video_root=str(synthetic.root))
    try:
        load_visual_records(data.eval_path, cache_dir=data.cache_dir)
    except InputError as error:
        raise InputError(f"data.eval_path: {error}") from error
    return dataclasses.replace(data, path=data.eval_path)


def read_first_groups(data: DataConfig, *, image_size: int, count: int) -> np.ndarray:
    """Returns the first `count` groups of frames, or all if there are fewer: uint8 [n,4,S,S,3].

    Every video and image is read once, in the order of the data file; unreadable files are logged
    and left out.

    Raises:
        InputError: The data file is malformed, or none of its files can be read.
    """
    shape = RowShape(groups=data.max_frames // FRAMES_PER_GROUP, text=0, image_size=image_size)
    reader = SampleReader.build(None, shape=shape, pinpoints=DEFAULT_PINPOINTS)
    found: list[np.ndarray] = []
    taken = set()
    records = _load(data, load_visual_records, seed=0)
    for index in range(len(records)):
        if len(found) >= count:
            break
        try:
            shown = reader.media_fingerprint(records[index])
            if shown not in taken:
                taken.add(shown)
                found.extend(reader(records[index]).groups)
        except InputError as error:
            log.warning("Skipped record %d: %s", index, error)
    if not found:
        raise InputError(
            f"No video and no image of {data.path or 'the embedded clips'} can be read: the log"
            " gives the reasons."
        )
    return np.stack(found[:count])


def _load(data: DataConfig, load: Callable[..., Records], *, seed: int) -> Records:
    """Loads the records of `data.path`, or the embedded clips that fit into a row."""
    if not data.path:
        cache = Path(data.cache_dir).expanduser()
        most = data.frames_per_sample or data.max_frames
        files = haystacks.training_set(cache, most_frames=most)
        return join_records(load(file) for file in (synthetic_set(cache).train, *files))
    records = load(
        data.path,
        video_root=data.video_root,
        image_root=data.image_root,
        seed=seed,
        cache_dir=data.cache_dir,
    )
    check_roots(records)
    return records


def _rows_of_process(data: DataConfig, index: int, count: int) -> range:
    if data.batch_size < 1 or data.batch_size % count:
        raise InputError(
            f"data.batch_size is {data.batch_size}: it counts the rows of all {count} process(es)"
            " together, so give a positive multiple of that."
        )
    rows = data.batch_size // count
    if rows > _MOST_ROWS:
        raise InputError(
            f"data.batch_size is {data.batch_size}, {rows} rows for each process: a process reads"
            f" {_MOST_ROWS} at most, each in a thread of its own."
        )
    return range(index * rows, (index + 1) * rows)
