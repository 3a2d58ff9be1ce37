"""Turns records into samples.

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
from vxlpro_jax.data.video.reader import group_video, read_video
from vxlpro_jax.data.video.sampling import Sampling, Video
from vxlpro_jax.utils.errors import InputError


class Sample(NamedTuple):
    """A decoded and tokenized record.

    Attributes:
        groups: frames or features, see `Visual`.
        stamp_ids: int32 [g,10], time stamps of the groups.
        tokens: int32 [t], text ids.
        labels: int32 [t], targets.
    """

    groups: np.ndarray
    stamp_ids: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> Size:
        """Space that the sample takes in a row."""
        return Size(groups=len(self.groups), text=len(self.tokens))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """Static shape to which rows are padded.

    Attributes:
        groups: G, groups of frames.
        text: T, text slots.
        image_size: S, side of a frame.
    """

    groups: int
    text: int
    image_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoReader:
    """Reads videos: at most `max_frames` frames, uniformly or at `fps` frames a second.

    If `decoders` is set, videos are read in processes of that pool, with a time limit.
    """

    max_frames: int
    size: int
    fps: float | None = None
    decoders: DecoderPool | None = None

    @property
    def sampling(self) -> Sampling:
        """The rule by which frames are sampled."""
        return Sampling(self.max_frames, self.fps, self.size)

    def __call__(self, file: Path | BinaryIO) -> Video:
        """Returns the sampled frames of a video.

        Raises:
            BadFile: The video cannot be used, see `read_video` and `DecoderPool.read`.
        """
        options = {"max_frames": self.max_frames, "size": self.size, "fps": self.fps}
        if self.decoders is None:
            return read_video(file, **options)
        return self.decoders.read(file if isinstance(file, Path) else file.read(), **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleReader:
    """Reads a record's files and encodes its text; `build` creates it from config values.

    Without a tokenizer, samples have no text and their stamps are zeros. If `features` is set,
    stored features replace frames.
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
        """Creates a reader whose pictures never need more groups than a row has.

        By default a video may fill a row with uniformly spaced frames. Tilings with more crops than
        a row has groups are dropped; the release keeps them, because it has no static shapes.

        Raises:
            InputError: `pinpoints` is malformed, or no tiling fits.
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
        """Returns the record's sample.

        Raises:
            InputError: A file cannot be used, or the text is longer than a row.
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
        # The first id has no predecessor that could predict it; the release's shift drops it.
        labels = np.concatenate([[IGNORE_LABEL], chat.labels[1:]]).astype(np.int32)
        return Sample(visual.groups, stamps, chat.ids, labels)

    def visual(self, record: Record) -> Visual:
        """Returns the record's video or pictures; no groups if it is only text.

        Raises:
            InputError: A file cannot be used.
        """
        if self.features is None:
            return self._frames(record)
        return self._stored_features(record, features=self.features)

    def media_fingerprint(self, record: Record) -> str:
        """Identifies the files of a record by a text that changes whenever a file changes.

        Raises:
            InputError: A file is missing or outside its root.
        """
        return "\0".join(map(fingerprint, record.media))

    def reading(self, record: Record) -> str:
        """Describes all that determines the record's frames, besides the files and their size.

        Raises:
            InputError: The record has too many pictures.
        """
        if record.images:
            tilings = " ".join(f"{grid.columns}x{grid.rows}" for grid in self._tilings(record))
            return f"pictures tiled {tilings}"
        return f"at most {self.read_video.max_frames} frames at {self.read_video.fps}"

    def most_groups(self, record: Record) -> int:
        """Returns the largest number of groups that the record can need, without reading its files.

        A video with a known duration needs at most the groups of that duration at a fixed rate. If
        it turns out to be longer, groups are dropped evenly.

        Raises:
            InputError: The record has too many pictures.
        """
        if record.images:
            crops = max(grid.columns * grid.rows for grid in self._tilings(record))
            return len(record.images) * crops
        if not record.has_visual:
            return 0
        return -(-self.read_video.sampling.most(record.duration) // FRAMES_PER_GROUP)

    def _stored_features(self, record: Record, *, features: RunFeatures) -> Visual:
        if not record.has_visual:
            return features.empty()
        try:
            return features.read(record.media, reading=self.reading(record))
        except InputError:
            self._frames(record)  # If the file itself is at fault, this raises a better message.
            raise

    def _frames(self, record: Record) -> Visual:
        size = self.shape.image_size
        if record.images:
            crops = np.concatenate(self._crops(record))
            return Visual(group_crops(crops), np.zeros(len(crops)))
        if record.has_visual:
            with open_media(record.media[0]) as file:
                return Visual(*group_video(self.read_video(file)))
        return Visual(np.zeros((0, FRAMES_PER_GROUP, size, size, 3), np.uint8), np.zeros(0))

    def _tilings(self, record: Record) -> tuple[Grid, ...]:
        """Returns the tilings allowed for each picture; several pictures share a row's groups."""
        share = self.shape.groups // len(record.images)
        grids = tuple(grid for grid in self.grids if grid.columns * grid.rows <= share)
        if not grids:
            raise InputError(
                f"{record.name} has {len(record.images)} pictures, too many for a row of"
                f" {self.shape.groups} crops: raise data.max_frames (a crop takes four)."
            )
        return grids

    def _crops(self, record: Record) -> list[np.ndarray]:
        """Returns the crops of each picture."""
        grids, crops = self._tilings(record), []
        for picture in record.media:
            with open_media(picture) as file:
                crops.append(read_image(file, size=self.shape.image_size, grids=grids))
        return crops


def _thinned(visual: Visual, *, most: int) -> Visual:
    """Keeps at most `most` groups, evenly spaced."""
    count = len(visual.groups)
    if count <= most:
        return visual
    picks = np.linspace(0, count - 1, most, dtype=int)
    return Visual(visual.groups[picks], visual.times[picks])
