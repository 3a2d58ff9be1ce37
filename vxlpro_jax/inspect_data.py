"""Shows what training will read, before it is trained on.

`python -m vxlpro_jax.inspect_data --config=configs/stage2.py [--batches N] [--out DIR]` takes the
first batches of a run, of all its rows, tells what they hold and draws them: `DIR/batch0.png` and
so on. It needs no accelerator and reads no weights.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags

from vxlpro_jax.config.flags import read_run
from vxlpro_jax.data.inspect import picture, view, words
from vxlpro_jax.data.loader.batches import Batch, BatchIterator, BatchSource
from vxlpro_jax.data.loader.bucketing import BucketIterator
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.setup import resolve
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError

_MOST_DRAWN = 12  # Samples of a batch.
_MOST_TOLD = 4
_BAD = "bad_samples.jsonl"


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    jax.config.update("jax_platforms", "cpu")  # A run may hold the devices.
    run = read_run(argv, define=_define, doc=__doc__)
    plan = resolve(run.config)
    folder = _make_folder(Path(run.flags.out or Path("runs") / run.name / "inspect"))
    data = open_data(plan, folder=folder)
    told = {"tokens_per_group": plan.config.model.tokens_per_group, "folder": folder}
    try:
        drawings = [
            tell(taken, source=part.source, **told)
            for number, part in enumerate(data.parts)
            for taken in take(
                part, first=number * run.flags.batches, count=run.flags.batches, folder=folder
            )
        ]
    finally:
        data.close()
    # Only now, so that it does not count as the time of a batch, nor hide some of it.
    for drawing in drawings:
        picture.draw_batch(**drawing._asdict())
    print(f"Drawn: {', '.join(str(drawing.path) for drawing in drawings)}.")


def _define(values):
    each = "How many, of each shape."
    flags.DEFINE_integer("batches", 1, each, lower_bound=1, flag_values=values)
    flags.DEFINE_string("out", "", "Folder of the pictures.", flag_values=values)


def _make_folder(folder: Path) -> Path:
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _BAD).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Folder {folder} cannot be written ({error.strerror}).") from error
    return folder


def open_data(plan: RunPlan, *, folder: Path) -> BatchIterator | BucketIterator:
    """All rows of the run's batches, frames even where it would read their features.

    Raises:
        InputError: as `build_pipeline`.
    """
    return build_pipeline(
        plan.config.data,
        image_size=plan.config.model.vision.image_size,
        with_text=plan.objective.reads_text,
        seed=plan.config.seed,
        bad_samples_path=folder / _BAD,
    )


class Taken(NamedTuple):
    """Attributes: a `batch`, its `making`, and the iterator's state `before` and `after` it."""

    batch: Batch
    making: words.LoadStats
    before: Mapping[str, Any]
    after: Mapping[str, Any]


def take(data: BatchIterator, *, first: int, count: int, folder: Path) -> Iterator[Taken]:
    """The first batches, numbered from `first` on.

    The time of each counts from when the last was there, since it was being made from then on.

    Raises:
        InputError: too many records cannot be read.
    """
    before, since = data.get_state(), time.monotonic()
    for number in range(first, first + count):
        known = _bad_kinds(folder)
        batch, now = next(data), time.monotonic()
        making = words.LoadStats(number, now - since, _bad_kinds(folder) - known)
        after = data.get_state()
        yield Taken(batch, making, before, after)
        before, since = after, now


class Drawing(NamedTuple):
    """The arguments of `picture.draw`."""

    shares: picture.RowShares
    samples: list[view.SampleView]
    title: str
    path: Path


def tell(taken: Taken, *, source: BatchSource, tokens_per_group: int, folder: Path) -> Drawing:
    """Prints what a batch holds; returns what is to be drawn of it."""
    account = view.measure_usage(taken.batch, tokens_per_group=tokens_per_group)
    samples = samples_of(taken, source=source, counts=account.samples)
    print(words.describe_batch(taken.batch, account=account, making=taken.making))
    for sample in samples[:_MOST_TOLD]:
        print(f"\n{words.describe_sample(sample)}")
    print(flush=True)
    name = f"Batch {taken.making.number}: {len(samples)} of {sum(account.samples)} samples"
    title = f"{name}; packing efficiency {account.groups.share:.0%}"
    if account.text.of:
        title += f", text {account.text.share:.0%} used"
    path = folder / f"batch{taken.making.number}.png"
    return Drawing(picture.RowShares.of(taken.batch), samples, title, path)


def samples_of(
    taken: Taken, *, source: BatchSource, counts: Sequence[int]
) -> list[view.SampleView]:
    """The first samples of a batch with so many in each row."""
    batch, shown = taken.batch, []
    for row, count in enumerate(counts):
        named = view.record_names(source, before=taken.before, after=taken.after, row=row)
        if len(named) != count:  # A record was bad once and good another time.
            named = [""] * count
        for number, name in enumerate(named, 1):
            if len(shown) == _MOST_DRAWN:
                return shown
            tokenizer = source.reader.tokenizer
            shown.append(
                view.view_sample(batch, tokenizer=tokenizer, row=row, number=number, name=name)
            )
    return shown


def _bad_kinds(folder: Path) -> Counter[str]:
    """Of all records passed over so far."""
    path = folder / _BAD
    if not path.exists():
        return Counter()
    return Counter(json.loads(line)["kind"] for line in path.read_text().splitlines())


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
