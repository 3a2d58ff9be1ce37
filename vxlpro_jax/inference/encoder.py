"""Encodes frames to visual tokens for answering, a few groups at a time.

Frames are read, encoded and dropped, so that only the visual tokens of a video stay in memory, on
the host. Reading, encoding and copying to the host overlap.

Shapes: `F` frames and `G` groups of a video, `g` of a batch, `N` visual tokens of a group, `D`
decoder width, `S` side of a frame.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

import jax
import numpy as np

from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.features.blocks import Visual
from vxlpro_jax.data.text import chat
from vxlpro_jax.data.video import reader
from vxlpro_jax.data.video.reader import FrameGroups
from vxlpro_jax.data.video.sampling import FrameStream
from vxlpro_jax.inference.loading import LoadedModel
from vxlpro_jax.inference.token_cache import TokenCache
from vxlpro_jax.models.video_xl_pro import jit_method
from vxlpro_jax.utils.prefetch import prefetch

# Each batch of groups is padded to this size, so that few shapes are compiled.
GROUPS_PER_BATCH = 8

# Batches that are read ahead, and encoded batches on their way to the host.
_BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A video or picture, ready for any number of questions.

    Attributes:
        visual: [G, N, D], visual tokens, in the model's type.
        stamp_ids: int32 [G, 10], ids of the time stamps.
        times: float64 [G], seconds at which the groups begin.
    """

    visual: np.ndarray
    stamp_ids: np.ndarray
    times: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Number of visual tokens before selection."""
        return self.visual.shape[0] * self.visual.shape[1]


class OpenMedia:
    """A video or picture that is open but not yet encoded; a context manager.

    Attributes:
        groups: number of groups of four frames, or of crops.
        encode: function that encodes it; may raise InputError, and Failure if the tokens cannot be
            written to the cache.
        times: function that returns the seconds of all frames, float64 [F]; may raise InputError.
    """

    def __init__(
        self,
        groups: int,
        *,
        encode: Callable[[], Encoded],
        times: Callable[[], np.ndarray],
        close: Callable[[], None],
    ):
        self.groups = groups
        self.encode = encode
        self.times = times
        self._close = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._close()


class Encoder:
    """Tower, DTS and projector of a model on one device."""

    def __init__(self, model: LoadedModel, *, progress: Callable, cache: TokenCache | None):
        """Wraps a model.

        Args:
            model: loaded model, whose tokenizer encodes the time stamps.
            progress: function like `cli.progress`.
            cache: visual tokens of videos encoded before; None to always encode.
        """
        self._model = model
        self._progress = progress
        self._cache = cache

    def open_video(
        self, path: str | Path, *, max_frames: int, fps: float | None = None
    ) -> OpenMedia:
        """Opens a video file, or finds its tokens in the cache; arguments as in `stream_video`.

        Raises:
            InputError: the file cannot be read.
            Failure: its content hash cannot be written to the cache.
        """
        size = self._model.config.vision.image_size

        def opened() -> FrameStream:
            return reader.stream_video(path, max_frames=max_frames, size=size, fps=fps)

        cache = self._cache
        key = cache.key(path, max_frames=max_frames, fps=fps) if cache else ""
        if cache and (found := cache.read(key)):
            return OpenMedia(
                len(found.times),
                encode=lambda: self._stamped(found),
                times=lambda: _times(opened()),
                close=lambda: None,
            )
        stream = opened()

        def encode():
            tokens = _joined(self._blocks(stream))
            if cache:
                cache.write(key, tokens)
            return self._stamped(tokens)

        return OpenMedia(
            _count_groups(stream), encode=encode, times=lambda: stream.times, close=stream.close
        )

    def encode_stream(self, stream: FrameStream) -> Encoded:
        """Reads and encodes an open video to its end.

        Raises:
            InputError: a frame cannot be read.
        """
        return self._stamped(_joined(self._blocks(stream)))

    def encode_groups(self, frames: np.ndarray, *, times: np.ndarray) -> Encoded:
        """Encodes groups that are in memory: uint8 [G, 4, S, S, 3], seconds [G]."""
        starts = range(0, len(frames), GROUPS_PER_BATCH)
        parts = (slice(start, start + GROUPS_PER_BATCH) for start in starts)
        batches = (FrameGroups(frames[part], times[part]) for part in parts)
        return self._stamped(_joined(self._encoded(batches, groups=len(frames))))

    def _blocks(self, stream: FrameStream) -> Iterator[Visual]:
        groups = _count_groups(stream)
        batches = self._progress(
            reader.stream_groups(stream, groups=GROUPS_PER_BATCH),
            name="encoding",
            unit=f"{GROUPS_PER_BATCH * FRAMES_PER_GROUP} frames",
            total=-(-groups // GROUPS_PER_BATCH),
        )
        return self._encoded(batches, groups=groups)

    def _encoded(self, batches: Iterable[FrameGroups], *, groups: int) -> Iterator[Visual]:
        """Yields tokens [g, N, D]; reading, encoding and copying to the host overlap."""
        size = min(GROUPS_PER_BATCH, groups + groups % 2)
        encode = jit_method(self._model.config, "encode")
        running: collections.deque = collections.deque()

        def fetched() -> Visual:
            tokens, times = running.popleft()
            return Visual(np.asarray(tokens)[: len(times)], times)

        with prefetch(batches, count=_BATCHES_AHEAD) as read:
            for batch in read:
                tokens: jax.Array = encode(self._model.params, pad(batch.frames, size)[None])[0]
                running.append((tokens, batch.times))
                if len(running) > _BATCHES_AHEAD:
                    yield fetched()
        while running:
            yield fetched()

    def _stamped(self, tokens: Visual) -> Encoded:
        stamp_ids = chat.encode_stamps(tokens.times, tokenizer=self._model.tokenizer)
        return Encoded(tokens.groups, stamp_ids, tokens.times)


def _joined(blocks: Iterable[Visual]) -> Visual:
    return Visual(*map(np.concatenate, zip(*blocks, strict=True)))


def _times(stream: FrameStream) -> np.ndarray:
    with stream:
        return stream.times


def _count_groups(stream: FrameStream) -> int:
    return -(-len(stream.times) // FRAMES_PER_GROUP)


def pad(array: np.ndarray, length: int) -> np.ndarray:
    """Pads `array` with zeros at the end of axis 0."""
    return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1))


def round_up(value: int, multiple: int) -> int:
    """Rounds a value up to a multiple."""
    return -(-value // multiple) * multiple
