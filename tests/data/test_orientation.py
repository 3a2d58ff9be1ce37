"""Frames are oriented by the display matrix, including mirrored ones."""

import itertools
import struct

import av
import numpy as np
import pytest

from vxlpro_jax.data.video.reader import read_video

SIDE = 64
COLOURS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 250]]], np.uint8)
SYMMETRIES = [
    *((a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)),
    *((0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)),
]


def quarters(path, matrix, *, scale=1 << 16):
    """Writes frames of four coloured quarters with a display matrix [[a, b], [c, d]]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        picture = np.kron(COLOURS, np.ones((SIDE // 2, SIDE // 2, 1), np.uint8))
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    a, b, c, d = (round(entry * scale) for entry in matrix)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def shown(path):
    """Returns the colours in the middle of each quarter, [2,2,3]."""
    (frame,) = read_video(path, max_frames=1, size=SIDE).frames
    quarter = SIDE // 4
    return frame[quarter :: 2 * quarter, quarter :: 2 * quarter]


def moved(matrix):
    """Moves each quarter by the definition of the matrix: x' = a x + c y, y' = b x + d y."""
    a, b, c, d = matrix
    result = np.empty_like(COLOURS)
    for row, column in itertools.product((0, 1), repeat=2):
        x, y = 2 * column - 1, 2 * row - 1
        result[(b * x + d * y + 1) // 2, (a * x + c * y + 1) // 2] = COLOURS[row, column]
    return result


@pytest.mark.parametrize("matrix", SYMMETRIES)
def test_the_display_matrix_is_applied(matrix, tmp_path):
    path = quarters(tmp_path / "a.mp4", matrix)
    np.testing.assert_allclose(shown(path).astype(int), moved(matrix), atol=30)


@pytest.mark.parametrize("matrix", SYMMETRIES)
def test_a_matrix_that_scales_or_is_a_bit_off_turns_alike(matrix, tmp_path):
    off = np.add(matrix, [0.1, -0.2, 0.1, 0.2])
    path = quarters(tmp_path / "a.mp4", off, scale=3 << 15)
    np.testing.assert_allclose(shown(path).astype(int), moved(matrix), atol=30)


def test_a_matrix_of_zeros_changes_nothing(tmp_path):
    path = quarters(tmp_path / "a.mp4", (0, 0, 0, 0))
    np.testing.assert_allclose(shown(path).astype(int), COLOURS, atol=30)
