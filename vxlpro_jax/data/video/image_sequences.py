"""Frames that are not in a video container: a folder of pictures, an array, an animated WebP.

Shapes: n frames, F sampled frames, H and W height and width.
"""

import os
import re
import tokenize
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.containers import MOST_PIXELS
from vxlpro_jax.data.video.formats import PICTURE_SUFFIXES
from vxlpro_jax.data.video.images import PILLOW_FAULTS, open_picture
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.data.video.sampling import FrameStream, FrameTimes, Sampling, TimedFrame

# Folders of frames and arrays have no times; each frame lasts one second.
SECONDS_A_FRAME = 1.0

# Function that maps increasing indices to the pictures at these indices.
_Pictures = Callable[[Sequence[int]], Generator[Image.Image, None, None]]


def stream_folder(media: MediaFile, *, sampling: Sampling) -> FrameStream:
    """Streams a folder's pictures in natural order (2 before 10), one per second.

    Raises:
        BadFile: There are no pictures; or, raised with its frame, a picture cannot be read.
    """
    folder = media.path
    assert folder is not None
    names = (name for name in os.listdir(folder) if not name.startswith("."))
    names = sorted((n for n in names if n.lower().endswith(PICTURE_SUFFIXES)), key=_natural)
    if not names:
        raise BadFile(
            f"Folder {folder} has no pictures, so no frames: check the path.", kind="empty"
        )

    def pictures(indices: Sequence[int]) -> Generator[Image.Image, None, None]:
        for index in indices:
            yield open_picture(folder / names[index])

    return _taken(media, pictures, shown=_a_second_each(len(names)), sampling=sampling)


def is_array(start: bytes) -> bool:
    """Returns whether a file with these first bytes is in NumPy's format."""
    return start.startswith(np.lib.format.MAGIC_PREFIX)


def stream_array(media: MediaFile, *, sampling: Sampling) -> FrameStream:
    """Streams an `.npy` file, uint8 [n,H,W,3], one frame per second; only sampled frames are read.

    Raises:
        BadFile: The array has another type or shape, is cut off, or is too large.
    """
    with media.opened() as file:
        # NumPy parses the header as Python, which may raise more than NumPy's own ValueError.
        with media.reading(ValueError, SyntaxError, tokenize.TokenError, RecursionError):
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise media.bad(
                    f"is an array of format {version}: save it as format 1.0 or 2.0",
                    kind="damaged",
                )
            shape, is_transposed, dtype = _HEADERS[version](file)
        if dtype != np.uint8 or is_transposed or len(shape) != 4 or shape[3] != 3:
            raise media.bad(
                f"holds {dtype} {list(shape)}{' in Fortran order' if is_transposed else ''}:"
                " save frames as uint8 [F,H,W,3] in C order",
                kind="no_video",
            )
        count, height, width, _ = shape
        if min(shape) < 1:
            raise media.bad("holds no frames: replace or remove the file", kind="no_frames")
        media.check_pixels(width, height, most=MOST_PIXELS)
        first, step = file.tell(), height * width * 3
        if file.seek(0, os.SEEK_END) < first + count * step:
            raise media.bad(
                f"is cut off before the {count} frames that it declares: copy it again or remove"
                " it",
                kind="cut_off",
            )
        media.check_frames(count)

    def pictures(indices: Sequence[int]) -> Generator[Image.Image, None, None]:
        with media.opened() as file:
            for index in indices:
                file.seek(first + index * step)
                pixels = np.frombuffer(file.read(step), np.uint8)
                yield Image.fromarray(pixels.reshape(height, width, 3))

    return _taken(media, pictures, shown=_a_second_each(count), sampling=sampling)


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def is_webp(start: bytes) -> bool:
    """Returns whether first bytes are those of WebP, whose animations FFmpeg does not decode."""
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"


def stream_webp(media: MediaFile, *, sampling: Sampling) -> FrameStream:
    """Streams an animated WebP at its own times, after decoding it once to determine them.

    Raises:
        BadFile: The file is damaged or too large.
    """
    durations = []
    with media.reading(*PILLOW_FAULTS), _webp_opened(media) as animation:
        media.check_pixels(animation.width, animation.height, most=MOST_PIXELS)
        for frame in ImageSequence.Iterator(animation):
            frame.load()
            durations.append(frame.info.get("duration", 0) / 1000)
    ends = np.cumsum(durations)

    def pictures(indices: Sequence[int]) -> Generator[Image.Image, None, None]:
        with _webp_opened(media) as animation:
            for index in indices:
                with media.reading(*PILLOW_FAULTS):
                    animation.seek(index)
                    picture = animation.convert("RGB")
                yield picture

    shown = FrameTimes(ends - durations, float(ends[-1]))
    return _taken(media, pictures, shown=shown, sampling=sampling)


@contextmanager
def _webp_opened(media: MediaFile) -> Iterator[Image.Image]:
    with media.opened() as file:
        with media.reading(*PILLOW_FAULTS):
            animation = Image.open(file, formats=("WEBP",))
        with animation:
            yield animation


def _natural(name: str) -> tuple[Any, ...]:
    """Returns a sort key that compares numbers in a name as numbers."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name))


def _a_second_each(count: int) -> FrameTimes:
    return FrameTimes(np.arange(count) * SECONDS_A_FRAME, count * SECONDS_A_FRAME)


def _taken(
    media: MediaFile, pictures: _Pictures, *, shown: FrameTimes, sampling: Sampling
) -> FrameStream:
    picks = sampling.picks(shown)
    times = shown.times[picks]

    def frames() -> Generator[TimedFrame, None, None]:
        with media.reading(), closing(pictures(picks.tolist())) as taken:
            for picture, seconds in zip(taken, times.tolist(), strict=True):
                yield TimedFrame(sampling.resized(picture), seconds)

    return FrameStream(times, frames())
