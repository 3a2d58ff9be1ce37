"""Measures clips in several processes.

Shapes: F frames, S side of a frame, D width of an embedding.
"""

import base64
import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from PIL import Image

from vxlpro_jax.curation.embedding import embed_clip
from vxlpro_jax.curation.motion import FPS, SIDE, Motion, measure_motion
from vxlpro_jax.curation.samples import Clip
from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.loader.samples import VideoReader
from vxlpro_jax.data.sources.storage import open_media
from vxlpro_jax.data.video.images import open_picture
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.data.video.sampling import Video
from vxlpro_jax.utils.errors import InputError

T = TypeVar("T")
U = TypeVar("U")

# Increase it whenever a measurement changes, so that old journal entries are not used.
VERSION = 1

# 2.8 hours and 61 MB; frames of longer videos are spaced uniformly.
_MOST_FRAMES = 20_000
# Faults of disks, networks and names, which may have disappeared by the next start.
_TRANSIENT = ("missing", "unreadable")


class ClipMeasurement(NamedTuple):
    """Measurements of one clip.

    Attributes:
        error: reason why the clip cannot be read, or "".
        error_kind: kind of the error, see `data.errors`.
        motion: motion of a video; None for pictures.
        embedding: float32 [D]; None if the clip cannot be read.
    """

    error: str = ""
    error_kind: str = ""
    motion: Motion | None = None
    embedding: np.ndarray | None = None

    @property
    def may_pass(self) -> bool:
        """Whether the error may disappear at another attempt."""
        return self.error_kind in _TRANSIENT

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object; embeddings are rounded to float16."""
        if self.error:
            return {"error": self.error, "error_kind": self.error_kind}
        assert self.embedding is not None
        motion = {} if self.motion is None else self.motion._asdict()
        packed = base64.b64encode(self.embedding.astype("<f2").tobytes()).decode()
        return motion | {"embedding": packed}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Self:
        """Restores a measurement from the result of `to_json`."""
        if "error" in entry:
            return cls(entry["error"], entry["error_kind"])
        packed = base64.b64decode(entry["embedding"])
        fields = [entry[name] for name in Motion._fields if name in entry]
        motion = Motion(*fields) if fields else None
        return cls(motion=motion, embedding=np.frombuffer(packed, "<f2").astype(np.float32))


def measure_clip(clip: Clip, *, decoders: DecoderPool) -> ClipMeasurement:
    """Measures a clip; a fault of the clip is part of the result instead of an error."""
    try:
        shown = read_clip(clip, max_frames=_MOST_FRAMES, size=SIDE, fps=FPS, decoders=decoders)
    except InputError as error:
        kind = error.kind if isinstance(error, BadFile) else "record"
        return ClipMeasurement(str(error), kind)
    motion = measure_motion(shown) if clip.kind == "video" else None
    return ClipMeasurement(motion=motion, embedding=embed_clip(shown.frames))


def read_clip(
    clip: Clip, *, max_frames: int, size: int, fps: float | None = None, decoders: DecoderPool
) -> Video:
    """Reads a video as `read_video` does, or up to `max_frames` pictures at time 0.

    Raises:
        InputError: The clip cannot be read.
    """
    if clip.kind == "image":
        media = clip.media[:max_frames]
        return Video(np.stack([_picture(file, size) for file in media]), np.zeros(len(media)))
    reader = VideoReader(max_frames=max_frames, size=size, fps=fps, decoders=decoders)
    with open_media(clip.media[0]) as file:
        return reader(file)


def _picture(file, size: int) -> np.ndarray:
    with open_media(file) as opened:
        picture = open_picture(opened)
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


@contextlib.contextmanager
def map_in_threads(
    function: Callable[[T], U], items: Iterable[T], *, workers: int
) -> Iterator[Iterator[U]]:
    """Applies a function to items in `workers` threads; yields results in the order of items."""
    items, running = iter(items), collections.deque()
    with ThreadPoolExecutor(workers) as pool:

        def results() -> Iterator[U]:
            for item in itertools.islice(items, 2 * workers):
                running.append(pool.submit(function, item))
            while running:
                yield running.popleft().result()
                for item in itertools.islice(items, 1):
                    running.append(pool.submit(function, item))

        try:
            yield results()
        finally:
            pool.shutdown(cancel_futures=True)
