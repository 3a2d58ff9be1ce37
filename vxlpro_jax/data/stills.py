"""Frames that no video container holds: a folder of pictures, an array, an animated WebP.

Shapes: n frames, F taken ones, H and W height and width.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from vxlpro_jax.data.containers import MOST_PIXELS
from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.frames import Sampling, Shown, Video
from vxlpro_jax.data.images import open_picture
from vxlpro_jax.data.media_file import MediaFile

# A folder of frames and an array carry no times: each frame lasts a second.
SECONDS_A_FRAME = 1.0

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_folder(folder: Path, *, sampling: Sampling) -> Video:
    """Frames of a folder's pictures in natural order (2 before 10), shown a second each.

    Raises:
        BadFile: no pictures, or one that is taken cannot be read.
    """
    names = (name for name in os.listdir(folder) if not name.startswith("."))
    names = sorted((n for n in names if n.lower().endswith(_SUFFIXES)), key=_natural)
    if not names:
        raise BadFile(
            f"Folder {folder} has no pictures, so no frames: check the path.", kind="empty"
        )

    def picture(index: int) -> Image.Image:
        return open_picture(folder / names[index])

    return _taken(picture, _a_second_each(len(names)), sampling=sampling)


def is_array(start: bytes) -> bool:
    """Whether a file that begins so is in NumPy's format."""
    return start.startswith(np.lib.format.MAGIC_PREFIX)


def read_array(media: MediaFile, *, sampling: Sampling) -> Video:
    """Frames of an `.npy` file, uint8 [n,H,W,3], shown a second each; reads only what it takes.

    Raises:
        BadFile: another type or shape, cut off, or too large.
    """
    with media.opened() as file:
        version = np.lib.format.read_magic(file)
        read_header = _HEADERS[version]
        shape, is_transposed, dtype = read_header(file)
        if dtype != np.uint8 or is_transposed or len(shape) != 4 or shape[3] != 3:
            raise media.bad(
                f"holds {dtype} {list(shape)}{' in Fortran order' if is_transposed else ''}:"
                " save frames as uint8 [F,H,W,3] in C order",
                kind="no_video",
            )
        count, height, width, _ = shape
        if count * height * width == 0:
            raise media.bad("holds no frames: replace or remove the file", kind="no_frames")
        media.check_pixels(width, height, most=MOST_PIXELS)
        first, step = file.tell(), height * width * 3
        if file.seek(0, os.SEEK_END) < first + count * step:
            raise media.bad(
                f"is cut off before the {count} frames that it declares: copy it again or remove"
                " it",
                kind="cut_off",
            )

        def picture(index: int) -> Image.Image:
            file.seek(first + index * step)
            pixels = np.frombuffer(file.read(step), np.uint8)
            return Image.fromarray(pixels.reshape(height, width, 3))

        return _taken(picture, _a_second_each(count), sampling=sampling)


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def is_webp(start: bytes) -> bool:
    """Whether a file that begins so is a WebP picture, which FFmpeg does not animate."""
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"


def read_webp(media: MediaFile, *, sampling: Sampling) -> Video:
    """Frames of an animated WebP picture at its own times.

    Raises:
        BadFile: damaged, or too large.
    """
    with media.opened() as file, Image.open(file, formats=("WEBP",)) as picture:
        media.check_pixels(picture.width, picture.height, most=MOST_PIXELS)
        durations = []
        for frame in ImageSequence.Iterator(picture):
            frame.load()
            durations.append(frame.info.get("duration", 0) / 1000)
        ends = np.cumsum(durations)
        shown = Shown(ends - durations, float(ends[-1]))

        def at(index: int) -> Image.Image:
            picture.seek(index)
            return picture.convert("RGB")

        return _taken(at, shown, sampling=sampling)


def _natural(name: str) -> Sequence[int | str]:
    """Numbers in a name are compared as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _a_second_each(count: int) -> Shown:
    return Shown(np.arange(count) * SECONDS_A_FRAME, count * SECONDS_A_FRAME)


def _taken(picture: Callable[[int], Image.Image], shown: Shown, *, sampling: Sampling) -> Video:
    picks = sampling.picks(shown)
    frames = sampling.empty(len(picks))
    for place, index in enumerate(picks.tolist()):
        frames[place] = sampling.resized(picture(index))
    return Video(frames, shown.times[picks])
