"""Rotates and mirrors frames according to the display matrix of their file."""

import av
import numpy as np
from PIL import Image

# By a, b, c, d of FFmpeg's display matrix: the pixel at (x, y) is shown at (a x + c y, b x + d y),
# where y points down.
_UPRIGHT: dict[tuple[int, int, int, int], Image.Transpose | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def upright(picture: Image.Image, frame: av.VideoFrame) -> Image.Image:
    """Returns the picture of a frame in display orientation, to the nearest quarter turn."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(float)
    nearest = max(_UPRIGHT, key=lambda entries: np.dot(entries, (a, b, c, d)))
    change = _UPRIGHT[nearest]
    return picture if change is None else picture.transpose(change)
