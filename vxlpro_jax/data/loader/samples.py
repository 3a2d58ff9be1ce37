"""Records to samples, samples to padded rows.

Shapes: B rows, G groups a row, g groups of one sample, T text slots a row, t of one sample, S side
of a frame.
"""

import dataclasses
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, IGNORE_LABEL, STAMP_TOKENS
from vxlpro_jax.data.features.blocks import Visual
from vxlpro_jax.data.features.store import RunFeatures
from vxlpro_jax.data.loader.packing import Size
from vxlpro_jax.data.sources.schema import Record
from vxlpro_jax.data.sources.storage import fingerprint, open_media
from vxlpro_jax.data.text.chat import encode_conversation, encode_stamps
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.data.video.images import Grid, group_crops, parse_pinpoints, read_image
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.data.video.reader import group_frames, read_video
from vxlpro_jax.data.video.sampling import Sampling, Video
from vxlpro_jax.utils.errors import InputError


class Sample(NamedTuple):
    """groups, see `Visual`; stamp_ids int32 [g,10]; tokens and labels int32 [t]."""

    groups: np.ndarray
    stamp_ids: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> Size:
        """What it takes of a row."""
        return Size(groups=len(self.groups), text=len(self.tokens))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """The static shape that rows are padded to: G groups, T text slots, S image side."""

    groups: int
    text: int
    image_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoReader:
    """How videos are read: at most `max_frames` frames, uniformly or `fps` a second.

    With `decoders` they are read in processes of their own, under a time limit.
    """

    max_frames: int
    size: int
    fps: float | None = None
    decoders: DecoderPool | None = None

    @property
    def sampling(self) -> Sampling:
        """Which frames it takes."""
        return Sampling(self.max_frames, self.fps, self.size)

    def __call__(self, file: Path | BinaryIO) -> Video:
        """The frames of a video.

        Raises:
            BadFile: as `read_video` and `DecoderPool.read`.
        """
        options = {"max_frames": self.max_frames, "size": self.size, "fps": self.fps}
        if self.decoders is None:
            return read_video(file, **options)
        return self.decoders.read(file if isinstance(file, Path) else file.read(), **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleReader:
    """Reads one record's file and encodes its text; `build` makes it from a config's values.

    Without a tokenizer samples have no text, and their stamps are zeros. Where `features` are, they
    stand in for frames.
    """

    tokenizer: Tokenizer | None
    shape: RowShape
    read_video: VideoReader
    grids: tuple[Grid, ...]
    features: RunFeatures | None = None

    @classmethod
    def build(
        cls,
        tokenizer: Tokenizer | None,
        *,
        shape: RowShape,
        pinpoints: Any,
        read_video: VideoReader | None = None,
    ) -> Self:
        """A reader whose pictures never need more groups than a row has.

        By default a video may fill a row with frames, uniformly spaced.

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
        whole = VideoReader(max_frames=shape.groups * FRAMES_PER_GROUP, size=shape.image_size)
        return cls(tokenizer=tokenizer, shape=shape, read_video=read_video or whole, grids=fitting)

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
        visual = _thinned(self.visual(record), most=self.shape.groups)
        stamps = encode_stamps(visual.times, tokenizer=self.tokenizer, scale=record.scale)
        # Nothing stands before the first id that could predict it; the release's shift drops it.
        labels = np.concatenate([[IGNORE_LABEL], chat.labels[1:]]).astype(np.int32)
        return Sample(visual.groups, stamps, chat.ids, labels)

    def visual(self, record: Record) -> Visual:
        """What the record shows; no groups if it is text alone.

        Raises:
            InputError: the file cannot be used.
        """
        return self._frames(record) if self.features is None else self._features(record)

    def media_fingerprint(self, record: Record) -> str:
        """Names what a record shows; another text as soon as its files change.

        Raises:
            InputError: a file is missing or lies outside of its root.
        """
        return "\0".join(map(fingerprint, record.media))

    def reading(self, record: Record) -> str:
        """Tells all that the record's frames depend on besides its files and their size.

        Raises:
            InputError: it has too many pictures.
        """
        if record.images:
            tilings = " ".join(f"{grid.columns}x{grid.rows}" for grid in self._tilings(record))
            return f"pictures tiled {tilings}"
        return f"at most {self.read_video.max_frames} frames at {self.read_video.fps}"

    def most_groups(self, record: Record) -> int:
        """Groups that a row needs for the record at most, known without reading its files.

        A video whose record tells its duration needs no more than that makes at a fixed rate; one
        that is longer all the same loses groups, evenly.

        Raises:
            InputError: it has too many pictures.
        """
        if record.images:
            crops = max(grid.columns * grid.rows for grid in self._tilings(record))
            return len(record.images) * crops
        if not record.has_visual:
            return 0
        return -(-self.read_video.sampling.most(record.duration) // FRAMES_PER_GROUP)

    def _features(self, record: Record) -> Visual:
        if not record.has_visual:
            return self.features.nothing()
        try:
            return self.features.read(record.media, reading=self.reading(record))
        except InputError:
            self._frames(record)  # What is wrong with the file itself is told first.
            raise

    def _frames(self, record: Record) -> Visual:
        size = self.shape.image_size
        if record.images:
            crops = np.concatenate(self._crops(record))
            return Visual(group_crops(crops), np.zeros(len(crops)))
        if record.has_visual:
            with open_media(record.media[0]) as file:
                return Visual(*group_frames(self.read_video(file)))
        return Visual(np.zeros((0, FRAMES_PER_GROUP, size, size, 3), np.uint8), np.zeros(0))

    def _tilings(self, record: Record) -> tuple[Grid, ...]:
        """Those that each picture may have; several share a row's groups evenly."""
        share = self.shape.groups // len(record.images)
        grids = tuple(grid for grid in self.grids if grid.columns * grid.rows <= share)
        if not grids:
            raise InputError(
                f"{record.name} has {len(record.images)} pictures, too many for a row of"
                f" {self.shape.groups} crops: raise data.max_frames (a crop takes four)."
            )
        return grids

    def _crops(self, record: Record) -> list[np.ndarray]:
        """Those of each picture."""
        grids, crops = self._tilings(record), []
        for picture in record.media:
            with open_media(picture) as file:
                crops.append(read_image(file, size=self.shape.image_size, grids=grids))
        return crops


def _thinned(visual: Visual, *, most: int) -> Visual:
    """At most so many groups of it, uniformly."""
    count = len(visual.groups)
    if count <= most:
        return visual
    picks = np.linspace(0, count - 1, most, dtype=int)
    return Visual(visual.groups[picks], visual.times[picks])
