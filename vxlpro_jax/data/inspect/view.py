"""Summaries of a batch that are small enough to print and draw.

Shapes: B rows, G groups a row, T text slots a row; g groups and t text ids of one sample; S side of
a frame.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, IGNORE_LABEL, IMAGE_TOKEN, STAMP_TOKENS
from vxlpro_jax.data.inspect.text import TextSpan, split_turns
from vxlpro_jax.data.loader.batches import Batch, BatchSource
from vxlpro_jax.data.text.tokenizer import Tokenizer

MOST_THUMBNAILS = 12  # Per sample.


class Usage(NamedTuple):
    """Number of slots `used` among the `total` slots."""

    used: int
    total: int

    @property
    def share(self) -> float:
        """Used share from 0 to 1; 0 if there are no slots."""
        return self.used / self.total if self.total else 0.0

    @property
    def padding(self) -> float:
        """Unused share; 0 if there are no slots."""
        return 1 - self.share if self.total else 0.0


class BatchUsage(NamedTuple):
    """How full a batch is.

    Attributes:
        samples: number of samples in each row.
        groups: groups of frames; their used share is the packing efficiency.
        text: text ids, including image positions.
        slots: positions of the decoder's sequence before the selector drops any; none without
            text.
        targets: number of ids that are training targets.
    """

    samples: tuple[int, ...]
    groups: Usage
    text: Usage
    slots: Usage
    targets: int


class Thumbnail(NamedTuple):
    """One frame.

    Attributes:
        pixels: uint8 [S,S,3].
        title: stamp of the group for its first frame, position in the group for another.
        repeats: whether the frame equals the previous frame of its group.
    """

    pixels: np.ndarray
    title: str
    repeats: bool


class SampleView(NamedTuple):
    """One sample.

    Attributes:
        row: row of the batch.
        number: position in the row, from 1.
        name: name of its record, "" if unknown.
        groups: number of groups g.
        repeated: number of frames that equal the previous frame of their group, because they are
            padding or the group shows a picture.
        stamps: time stamp of each group; empty without text.
        thumbnails: all frames or, if there are too many, first frames of groups.
        turns: turns of the conversation as spans.
        ids: number of text ids t.
        targets: number of ids that are training targets.
    """

    row: int
    number: int
    name: str
    groups: int
    repeated: int
    stamps: tuple[str, ...]
    thumbnails: tuple[Thumbnail, ...]
    turns: list[list[TextSpan]]
    ids: int
    targets: int


def measure_usage(batch: Batch, *, tokens_per_group: int) -> BatchUsage:
    """Counts the used slots of a batch; each group becomes `tokens_per_group` visual tokens."""
    groups, text = batch["group_segments"] > 0, batch["token_segments"] > 0
    read = np.count_nonzero(text & (batch["tokens"] != IMAGE_TOKEN))
    in_groups = np.array([groups.sum(), groups.size]) * (STAMP_TOKENS + tokens_per_group)
    slots = in_groups + np.array([read, text.size]) if text.size else (0, 0)
    last = [batch[name].max(1, initial=0) for name in ("group_segments", "token_segments")]
    return BatchUsage(
        samples=tuple(np.maximum(*last).tolist()),
        groups=Usage(int(groups.sum()), groups.size),
        text=Usage(int(text.sum()), text.size),
        slots=Usage(*map(int, slots)),
        targets=int(np.count_nonzero(batch["labels"] != IGNORE_LABEL)),
    )


def record_names(
    source: BatchSource, *, before: Mapping[str, Any], after: Mapping[str, Any], row: int
) -> list[str]:
    """Returns the names of the records in one row of a batch, in their order.

    Args:
        source: source of the batches.
        before: state of the iterator before the batch.
        after: state of the iterator after the batch.
        row: row of the batch.

    Raises:
        InputError: A record cannot be read again.
    """
    first, *held = before["rows"][str(row)]
    end, *left = after["rows"][str(row)]
    numbers = [number for number in (*held, *range(first, end)) if number not in left]
    records = [int(source.order[number * source.batch_size + row]) for number in numbers]
    bad = set(after["bad_records"])
    indices = source.records.indices
    return [source.records[record].name for record in records if int(indices[record]) not in bad]


def view_sample(
    batch: Batch, *, tokenizer: Tokenizer | None, row: int, number: int, name: str = ""
) -> SampleView:
    """Summarizes sample `number`, from 1, of a row.

    Without a tokenizer the summary has no text and no stamps.
    """
    groups = batch["frames"][row][batch["group_segments"][row] == number]
    shown = batch["stamp_ids"][row][batch["group_segments"][row] == number]
    said = batch["token_segments"][row] == number
    tokens, labels = batch["tokens"][row][said], batch["labels"][row][said]
    stamps = tuple(map(tokenizer.decode, shown.tolist())) if tokenizer else ()
    repeats = _repeats(groups)
    return SampleView(
        row=row,
        number=number,
        name=name,
        groups=len(groups),
        repeated=int(np.count_nonzero(repeats)),
        stamps=stamps,
        thumbnails=tuple(_thumbnails(groups, repeats=repeats, stamps=stamps)),
        turns=split_turns(tokens, labels, tokenizer=tokenizer) if tokenizer else [],
        ids=len(tokens),
        targets=int(np.count_nonzero(labels != IGNORE_LABEL)),
    )


def _repeats(groups: np.ndarray) -> np.ndarray:
    """Returns whether each frame equals the previous frame of its group: bool [g,4]."""
    repeats = np.zeros(groups.shape[:2], bool)
    repeats[:, 1:] = (groups[:, 1:] == groups[:, :-1]).all((2, 3, 4))
    return repeats


def _thumbnails(
    groups: np.ndarray, *, repeats: np.ndarray, stamps: Sequence[str]
) -> Iterator[Thumbnail]:
    for group, frame in _chosen(len(groups)):
        first = stamps[group] if stamps else f"group {group + 1}"
        title = f"+{frame}" if frame else first
        yield Thumbnail(groups[group, frame].copy(), title, bool(repeats[group, frame]))


def _chosen(groups: int) -> list[tuple[int, int]]:
    """Returns pairs of group and frame to show: all, or evenly spaced groups' first frames."""
    if groups * FRAMES_PER_GROUP <= MOST_THUMBNAILS:
        return [(group, frame) for group in range(groups) for frame in range(FRAMES_PER_GROUP)]
    spaced = np.linspace(0, groups - 1, min(groups, MOST_THUMBNAILS))
    return [(int(group), 0) for group in spaced.round()]
