"""Inspects the first batches of a run: prints their content, then draws them."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.inspect import picture, view, words
from vxlpro_jax.data.loader.batches import Batch, BatchIterator, BatchSource
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.utils.errors import InputError

_MOST_DRAWN = 12  # Samples per batch.
_MOST_PRINTED = 4  # Samples per batch.
_BAD_SAMPLES = "bad_samples.jsonl"


class TakenBatch(NamedTuple):
    """A batch that was taken from an iterator.

    Attributes:
        batch: arrays of the batch.
        stats: number, time and bad records of the batch.
        before: state of the iterator before the batch.
        after: state of the iterator after the batch.
    """

    batch: Batch
    stats: words.LoadStats
    before: Mapping[str, Any]
    after: Mapping[str, Any]


class Drawing(NamedTuple):
    """The arguments of `picture.draw_batch`."""

    shares: picture.RowShares
    samples: list[view.SampleView]
    title: str
    path: Path


def inspect_batches(
    data: DataConfig,
    *,
    image_size: int,
    tokens_per_group: int,
    with_text: bool,
    seed: int,
    count: int,
    folder: Path,
) -> list[Path]:
    """Prints and draws the first batches of a run, with frames even where it would read features.

    Args:
        data: data fields of the run's config.
        image_size: side of a frame in pixels.
        tokens_per_group: visual tokens of a group of four frames.
        with_text: whether the run trains on text.
        seed: seed of the run.
        count: number of batches of each shape.
        folder: folder of the pictures.

    Returns:
        The paths of the pictures.

    Raises:
        InputError: The data cannot be used (see `build_pipeline`), or the folder cannot be written.
    """
    _make_folder(folder)
    batches = build_pipeline(
        data,
        image_size=image_size,
        with_text=with_text,
        seed=seed,
        bad_samples_path=folder / _BAD_SAMPLES,
    )
    drawings = []
    try:
        for number, part in enumerate(batches.parts):
            for taken in take_batches(part, first=number * count, count=count, folder=folder):
                drawings.append(
                    describe(
                        taken, source=part.source, tokens_per_group=tokens_per_group, folder=folder
                    )
                )
    finally:
        batches.close()
    # Drawing comes last, because it would distort the times of the batches.
    for drawing in drawings:
        picture.draw_batch(**drawing._asdict())
    return [drawing.path for drawing in drawings]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _BAD_SAMPLES).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"Folder {folder} cannot be written ({error.strerror}): give another --out."
        ) from error


def take_batches(
    batches: BatchIterator, *, first: int, count: int, folder: Path
) -> Iterator[TakenBatch]:
    """Yields the first batches of an iterator.

    The time of a batch is measured from the moment the previous batch was taken, because its
    preparation starts then.

    Args:
        batches: iterator over batches of one shape.
        first: number of the first batch.
        count: number of batches.
        folder: folder of the list of bad samples.

    Raises:
        InputError: Too many records cannot be read.
    """
    before, since = batches.get_state(), time.monotonic()
    for number in range(first, first + count):
        known = _count_bad_kinds(folder)
        batch, now = next(batches), time.monotonic()
        stats = words.LoadStats(number, now - since, _count_bad_kinds(folder) - known)
        after = batches.get_state()
        yield TakenBatch(batch, stats, before, after)
        before, since = after, now


def describe(
    taken: TakenBatch, *, source: BatchSource, tokens_per_group: int, folder: Path
) -> Drawing:
    """Prints a description of a batch and returns what to draw."""
    usage = view.measure_usage(taken.batch, tokens_per_group=tokens_per_group)
    samples = view_samples(taken, source=source, counts=usage.samples)
    print(words.describe_batch(taken.batch, usage=usage, stats=taken.stats))
    for sample in samples[:_MOST_PRINTED]:
        print(f"\n{words.describe_sample(sample)}")
    print(flush=True)
    name = f"Batch {taken.stats.number}: {len(samples)} of {sum(usage.samples)} samples"
    title = f"{name}; packing efficiency {usage.groups.share:.0%}"
    if usage.text.total:
        title += f", text {usage.text.share:.0%} used"
    path = folder / f"batch{taken.stats.number}.png"
    return Drawing(picture.RowShares.of(taken.batch), samples, title, path)


def view_samples(
    taken: TakenBatch, *, source: BatchSource, counts: Sequence[int]
) -> list[view.SampleView]:
    """Returns the first samples of a batch, whose rows have `counts` samples."""
    batch, views = taken.batch, []
    for row, count in enumerate(counts):
        names = view.record_names(source, before=taken.before, after=taken.after, row=row)
        if len(names) != count:  # A record was readable at one time and unreadable at another.
            names = [""] * count
        for number, name in enumerate(names, 1):
            if len(views) == _MOST_DRAWN:
                return views
            tokenizer = source.reader.tokenizer
            views.append(
                view.view_sample(batch, tokenizer=tokenizer, row=row, number=number, name=name)
            )
    return views


def _count_bad_kinds(folder: Path) -> Counter[str]:
    """Counts the bad samples listed so far, by kind."""
    path = folder / _BAD_SAMPLES
    if not path.exists():
        return Counter()
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines())
