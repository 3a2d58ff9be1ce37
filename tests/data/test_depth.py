"""Pictures with more than 8 bits are scaled by the range of their type instead of clipped."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.images import open_picture
from vxlpro_jax.data.video.reader import read_video

RAMP = np.tile(np.arange(256, dtype=np.uint8), (8, 1))


def png(depth, pixels):
    """Writes a 16-bit PNG of one or three channels without Pillow, which supports fewer modes."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def saved(picture, form, **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def deep():
    wide = RAMP.astype(np.uint16) * 257
    floats = RAMP.astype(np.float32) / 255
    return {
        "png grey 16": png(16, wide),
        "png rgb 16": png(16, np.repeat(wide[..., None], 3, axis=2)),
        "tiff 16": saved(Image.fromarray(wide), "TIFF"),
        "tiff 16 packed": saved(Image.fromarray(wide), "TIFF", compression="tiff_deflate"),
        "tiff big-endian": saved(Image.fromarray(wide.astype(">u2")), "TIFF"),
        "tiff float": saved(Image.fromarray(floats), "TIFF"),
        "pgm 16": b"P5 256 8 65535\n" + wide.astype(">u2").tobytes(),
        "pgm 10": b"P5 256 8 1020\n" + (RAMP.astype(np.uint16) * 4).astype(">u2").tobytes(),
        "png grey 8": saved(Image.fromarray(RAMP), "PNG"),
        "tiff white is zero": saved(Image.fromarray(65_535 - wide), "TIFF", tiffinfo={262: 0}),
    }


@pytest.mark.parametrize("form", deep())
def test_a_deep_picture_equals_its_copy_of_8_bits(form, tmp_path):
    content = deep()[form]
    picture = np.asarray(open_picture(io.BytesIO(content)))
    np.testing.assert_allclose(picture.astype(int), np.repeat(RAMP[..., None], 3, 2), atol=1)
    (tmp_path / "frame1.png").write_bytes(content)
    (frame,) = read_video(tmp_path, max_frames=4, size=256).frames
    np.testing.assert_allclose(frame[4].astype(int), np.repeat(RAMP[4, :, None], 3, 1), atol=1)


@pytest.mark.parametrize(
    "values",
    [
        RAMP.astype(np.float32),
        RAMP.astype(np.float32) / 255 - 0.1,
        np.where(RAMP == 3, np.nan, 0.5).astype(np.float32),
        np.where(RAMP == 3, np.inf, 0.5).astype(np.float32),
        RAMP.astype(np.int32) << 20,
        -RAMP.astype(np.int32),
    ],
)
def test_a_picture_whose_black_and_white_are_not_known_is_refused(values, tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(values).save(path)
    with pytest.raises(BadFile, match=r"a\.tiff holds (float|int)32 from .* unknown: save it"):
        open_picture(path)


def test_a_video_of_16_bits_is_scaled(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(deep()["png grey 16"])
    (frame,) = read_video(path, max_frames=4, size=256).frames
    np.testing.assert_allclose(frame[4].astype(int), np.repeat(RAMP[4, :, None], 3, 1), atol=2)
