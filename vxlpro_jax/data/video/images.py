"""Splits pictures into crops: the release's `anyres` tiling with the `unires` merge.

Shapes: N kept crops, S side of a crop.
"""

import functools
import math
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from vxlpro_jax.config import limits
from vxlpro_jax.config.release_keys import DEFAULT_PINPOINTS
from vxlpro_jax.config.schema import FRAMES_PER_GROUP
from vxlpro_jax.data.video.media_file import MediaFile
from vxlpro_jax.utils.errors import InputError

# Forms of `image_grid_pinpoints`, in crops and in pixels, with few digits.
_CROPS = re.compile(r"\((\d{1,3})x(\d{1,3})\)")
_RANGE = re.compile(rf"\s*{_CROPS.pattern}([,.\s]*{_CROPS.pattern})*\s*")
_PAIR = re.compile(r"(\d{1,5})\s*,\s*(\d{1,5})")
_ONE = rf"[\[(]\s*{_PAIR.pattern}\s*[\])]"
_PAIRS = re.compile(rf"\s*[\[(]\s*{_ONE}(\s*,\s*{_ONE})*\s*,?\s*[\])]\s*")
_MOST_GRIDS = 4096

# Pillow's own limit: 358 MB at four bytes a pixel.
MOST_PIXELS = 89_478_485

# Formats found in data sets. Pillow supports more, some of which start other programs (EPS).
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Tags of TIFF.
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0

# What Pillow raises, besides OSError, for malformed pictures. Its documentation names few of them;
# RuntimeError is AVIF's.
PILLOW_FAULTS = (
    SyntaxError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class Grid(NamedTuple):
    """A tiling into `columns` by `rows` crops.

    Attributes:
        columns: crops side by side.
        rows: crops one below another.
        canvas: width and height in pixels into which the picture is fitted, if the crops extend
            beyond it; None if they fill it exactly.
    """

    columns: int
    rows: int
    canvas: tuple[int, int] | None = None

    def canvas_of(self, size: int) -> tuple[int, int]:
        """Returns width and height in pixels of the fitted picture, for crops of side `size`."""
        return self.canvas or (self.columns * size, self.rows * size)


def parse_pinpoints(pinpoints: Any, *, size: int) -> tuple[Grid, ...]:
    """Returns the tilings that `image_grid_pinpoints` of a config.json allows, in its order.

    Args:
        pinpoints: a range of crops such as `(1x1),...,(6x6)`, or widths and heights in pixels such
            as `[[384, 768], ...]`, as a list or text. As in the release these need not be multiples
            of the crop side; if they are not, the last crops are partly black.
        size: S, the side of a crop in pixels.

    Raises:
        InputError: The value is malformed, or tilings are too many or too large.
    """
    grids = _grids(pinpoints, size=size)
    sizes = [grid.canvas_of(size) for grid in grids]
    if not grids or any(wide < 1 or high < 1 or wide * high > MOST_PIXELS for wide, high in sizes):
        raise InputError(
            f"image_grid_pinpoints is {limits.shown(pinpoints)}: give a range such as"
            f" {DEFAULT_PINPOINTS!r} or at most {_MOST_GRIDS:,} pairs of a width and a height in"
            f" pixels, of at most {MOST_PIXELS:,} pixels."
        )
    return grids


def _grids(pinpoints: Any, *, size: int) -> tuple[Grid, ...]:
    """Returns the tilings; none if the value is malformed or has too many."""
    if isinstance(pinpoints, str) and _RANGE.fullmatch(pinpoints):
        ends = [tuple(map(int, pair)) for pair in _CROPS.findall(pinpoints)]
        (left, top), (right, bottom) = ends[0], ends[-1]
        if (right - left + 1) * (bottom - top + 1) > _MOST_GRIDS:
            return ()
        columns, rows = range(left, right + 1), range(top, bottom + 1)
        return tuple(Grid(column, row) for column in columns for row in rows)
    if isinstance(pinpoints, str):
        text = pinpoints if _PAIRS.fullmatch(pinpoints) else ""
        pairs = [tuple(map(int, pair)) for pair in _PAIR.findall(text)]
    else:
        pairs = pinpoints if isinstance(pinpoints, list | tuple) else []
    if len(pairs) > _MOST_GRIDS or not all(_is_pair(pair) for pair in pairs):
        return ()
    return tuple(_grid(width, height, size=size) for width, height in pairs)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) for side in value)
    )


def _grid(width: int, height: int, *, size: int) -> Grid:
    columns, rows = -(-width // size), -(-height // size)
    exact = (columns * size, rows * size) == (width, height)
    return Grid(columns, rows, None if exact else (width, height))


def read_image(file: str | Path | BinaryIO, *, size: int, grids: Sequence[Grid]) -> np.ndarray:
    """Returns the crops of a picture as the model sees them: uint8 [N,S,S,3], row by row.

    The picture is fitted into the best of `grids` with its aspect ratio kept, centred on black, and
    cut. The release prepends the whole picture, squeezed to one crop, and drops it after the
    compressor whenever there are other crops, which is always the case; so it is omitted here. As
    in the release, orientation tags are ignored.

    Args:
        file: path of the picture, or a seekable binary file object.
        size: S, the side of a crop.
        grids: tilings to choose from.

    Raises:
        BadFile: The picture cannot be used, see `open_picture`.
    """
    picture = open_picture(file)
    grid = best_grid(picture.width, picture.height, grids=grids, size=size)
    fitted = np.asarray(_letterboxed(picture, *grid.canvas_of(size)))
    canvas = np.zeros((grid.rows * size, grid.columns * size, 3), np.uint8)
    canvas[: fitted.shape[0], : fitted.shape[1]] = fitted
    tiles = canvas.reshape(grid.rows, size, grid.columns, size, 3)
    return tiles.swapaxes(1, 2).reshape(-1, size, size, 3)


def group_crops(crops: np.ndarray) -> np.ndarray:
    """Repeats each crop four times, since the compressor takes groups of four: [N,4,S,S,3]."""
    return np.repeat(crops[:, None], FRAMES_PER_GROUP, axis=1)


def best_grid(width: int, height: int, *, grids: Sequence[Grid], size: int) -> Grid:
    """Returns the grid that keeps most of the picture's pixels; ties go to the smallest grid."""

    def fit(grid: Grid) -> tuple[int, int]:
        wide, high = grid.canvas_of(size)
        scale = min(wide / width, high / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - wide * high

    return max(grids, key=fit)


def open_picture(file: str | Path | BinaryIO) -> Image.Image:
    """Opens a picture in RGB; for an animation, its first frame.

    Raises:
        BadFile: The file is missing, empty, in an unsupported format or damaged, or it has too many
            pixels.
    """
    media = MediaFile("Picture", file)
    with media.reading():
        media.check()
        formats = _formats()
        with (
            media.opened() as opened,
            media.reading(*PILLOW_FAULTS),
            Image.open(opened, formats=formats) as found,
        ):
            media.check_pixels(found.width, found.height, most=MOST_PIXELS)
            found.load()
            return found if found.mode == "RGB" else _in_eight_bits(found, media).convert("RGB")


def _in_eight_bits(picture: Image.Image, media: MediaFile) -> Image.Image:
    """Scales a grey picture of more than 8 bits to 8 bits by its type; Pillow would clip it.

    Pillow itself converts pictures of 16 bits per colour to 8 bits.

    Raises:
        BadFile: The type does not determine which values are black and white.
    """
    if picture.mode not in ("F", "I") and not picture.mode.startswith("I;"):
        return picture
    values = np.asarray(picture)
    tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
    bits = tags.get(_BITS, (16,))[0]
    is_float = picture.mode == "F"
    white = 1.0 if is_float else 2.0**bits - 1
    # NaN is outside every range.
    if bits > (64 if is_float else 16) or not (values.min() >= 0 and values.max() <= white):
        raise media.bad(
            f"holds {values.dtype} from {values.min()} to {values.max()}, so its levels of black"
            " and white are unknown: save it with 8 or 16 bits, or as floats from 0 to 1",
            kind="damaged",
        )
    grey = values / white * 255
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    return Image.fromarray(np.rint(grey).astype(np.uint8))


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats of `_FORMATS` that the installed Pillow can open."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _letterboxed(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Fits a picture into a black canvas, centred and with its aspect ratio kept."""
    across, down = width / picture.width, height / picture.height
    if across < down:
        fitted = width, min(math.ceil(picture.height * across), height)
    else:
        fitted = min(math.ceil(picture.width * down), width), height
    canvas = Image.new("RGB", (width, height))
    corner = (width - fitted[0]) // 2, (height - fitted[1]) // 2
    canvas.paste(picture.resize(fitted, Image.Resampling.BICUBIC), corner)
    return canvas
