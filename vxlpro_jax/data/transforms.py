"""Records to samples, samples to padded rows.

Shapes: B rows, G groups a row, g groups of one sample, T text slots a row, t of one sample, S side
of a frame.
"""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from vxlpro_jax.config import FRAMES_PER_GROUP, IGNORE_LABEL, STAMP_TOKENS, InputError
from vxlpro_jax.data.chat import encode_conversation, encode_stamps
from vxlpro_jax.data.features import FeatureFiles, Visual
from vxlpro_jax.data.images import Grid, group_crops, parse_pinpoints, read_image
from vxlpro_jax.data.sources import Record, resolve_inside
from vxlpro_jax.data.tokenizer import Tokenizer
from vxlpro_jax.data.video import group_frames, read_video


class Sample(NamedTuple):
    """groups, see `Visual`; stamp_ids int32 [g,10]; tokens and labels int32 [t]."""

    groups: np.ndarray
    stamp_ids: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """The static shape that rows are padded to: G groups, T text slots, S image side."""

    groups: int
    text: int
    image_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleReader:
    """Reads one record's file and encodes its text; `build` makes it from a config's values.

    Without a tokenizer samples have no text, and their stamps are zeros. Where `features` are, they
    stand in for frames.
    """

    tokenizer: Tokenizer | None
    shape: RowShape
    video_root: Path
    image_root: Path
    grids: tuple[Grid, ...]
    features: FeatureFiles | None = None

    @classmethod
    def build(
        cls,
        tokenizer: Tokenizer | None,
        *,
        shape: RowShape,
        video_root: Path,
        image_root: Path,
        pinpoints: Any,
    ) -> Self:
        """A reader whose pictures never need more groups than a row has.

        Tilings of more crops than that are left out, which differs because the release has no
        static shapes to fit.

        Raises:
            InputError: malformed `pinpoints`, or none that fits.
        """
        grids = parse_pinpoints(pinpoints, size=shape.image_size)
        fitting = tuple(grid for grid in grids if grid.columns * grid.rows <= shape.groups)
        if not fitting:
            raise InputError(
                f"No tiling of image_grid_pinpoints {pinpoints!r} has {shape.groups} crops or"
                " fewer: raise data.max_frames (a crop takes four)."
            )
        return cls(
            tokenizer=tokenizer,
            shape=shape,
            video_root=video_root,
            image_root=image_root,
            grids=fitting,
        )

    def __call__(self, record: Record) -> Sample:
        """The record's sample.

        Raises:
            InputError: the file cannot be used, or the text is longer than a row.
        """
        if self.tokenizer is None:
            groups, _ = self.visual(record)
            stamps = np.zeros((len(groups), STAMP_TOKENS), np.int32)
            return Sample(groups, stamps, np.zeros(0, np.int32), np.zeros(0, np.int32))
        chat = encode_conversation(record.turns, tokenizer=self.tokenizer)
        if len(chat.ids) > self.shape.text:
            raise InputError(
                f"The conversation has {len(chat.ids)} ids, more than data.max_text_tokens"
                f" ({self.shape.text}): shorten it or raise that."
            )
        visual = self.visual(record)
        stamps = encode_stamps(visual.times, tokenizer=self.tokenizer, scale=record.scale)
        return Sample(visual.groups, stamps, chat.ids, chat.labels)

    def visual(self, record: Record) -> Visual:
        """What the record shows; no groups if it is text alone.

        Raises:
            InputError: the file cannot be used.
        """
        return self._frames(record) if self.features is None else self._features(record)

    def visual_file(self, record: Record) -> Path:
        """The video or image of a record that has one.

        Raises:
            InputError: it lies outside of its root.
        """
        root = self.video_root if record.video else self.image_root
        return resolve_inside(root, record.video or record.image)

    def _features(self, record: Record) -> Visual:
        if not record.has_visual:
            return self.features.nothing()
        file = self.visual_file(record)
        try:
            return self.features.read(file)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            self._frames(record)  # What is wrong with the file itself is told first.
            raise InputError(
                f"The features of {file} cannot be read ({error}): start the run again to have"
                " them made."
            ) from error

    def _frames(self, record: Record) -> Visual:
        size = self.shape.image_size
        if record.video:
            max_frames = self.shape.groups * FRAMES_PER_GROUP
            read = read_video(self.visual_file(record), max_frames=max_frames, size=size)
            return Visual(*group_frames(read))
        if record.image:
            crops = read_image(self.visual_file(record), size=size, grids=self.grids)
            return Visual(group_crops(crops), np.zeros(len(crops)))
        return Visual(np.zeros((0, FRAMES_PER_GROUP, size, size, 3), np.uint8), np.zeros(0))


def stack_rows(samples: Sequence[Sample], *, shape: RowShape) -> dict[str, np.ndarray]:
    """One sample a row, padded: the batch of `pipeline.build_pipeline`.

    Segments count from 1; 0 is padding. Samples with features make a batch with `features` in the
    place of `frames`.
    """
    rows, groups, text, first = len(samples), shape.groups, shape.text, samples[0].groups
    visuals = "frames" if first.dtype == np.uint8 else "features"
    batch = {
        visuals: np.zeros((rows, groups, *first.shape[1:]), first.dtype),
        "stamp_ids": np.zeros((rows, groups, STAMP_TOKENS), np.int32),
        "group_segments": np.zeros((rows, groups), np.int32),
        "tokens": np.zeros((rows, text), np.int32),
        "token_segments": np.zeros((rows, text), np.int32),
        "labels": np.full((rows, text), IGNORE_LABEL, np.int32),
    }
    for row, sample in enumerate(samples):
        visual, spoken = len(sample.groups), len(sample.tokens)
        batch[visuals][row, :visual] = sample.groups
        batch["stamp_ids"][row, :visual] = sample.stamp_ids
        batch["group_segments"][row, :visual] = 1
        batch["tokens"][row, :spoken] = sample.tokens
        batch["token_segments"][row, :spoken] = 1
        batch["labels"][row, :spoken] = sample.labels
    return batch
