"""Tests crops of pictures, and pictures that cannot be used."""

import io
import math
import struct
import zlib

import helpers
import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.images import (
    DEFAULT_PINPOINTS,
    Grid,
    best_grid,
    group_crops,
    parse_pinpoints,
    read_image,
)
from vxlpro_jax.utils.errors import InputError

SIZE = 32
GRIDS = parse_pinpoints(DEFAULT_PINPOINTS, size=SIZE)


def save(path, width, height, *, mode="RGB"):
    rng = np.random.default_rng(width * height)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    noise.convert(mode).save(path)
    return path


def test_pinpoints_in_every_form():
    assert len(GRIDS) == 36
    assert GRIDS[:7] == (*(Grid(1, rows) for rows in range(1, 7)), Grid(2, 1))
    pixels = [[32, 64], [64, 32], [96, 32]]
    expected = (Grid(1, 2), Grid(2, 1), Grid(3, 1))
    for form in (pixels, str(pixels), "[(32, 64), (64, 32), (96, 32)]"):
        assert parse_pinpoints(form, size=SIZE) == expected


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (64, 64), (200, 30), (5, 5)])
def test_pinpoints_between_crops_are_tiled_as_in_the_release(tmp_path, size):
    # A crop is black where it extends beyond the canvas, as in Pillow.
    pinpoints = "[(28, 56), (56, 28), (56, 56), (84, 28), (28, 84)]"
    grids = parse_pinpoints(pinpoints, size=SIZE)
    assert grids[:2] == (Grid(1, 2, (28, 56)), Grid(2, 1, (56, 28)))
    file = save(tmp_path / "a.png", width=size[0], height=size[1])
    found = read_image(file, size=SIZE, grids=grids)
    best = best_grid(*size, grids=grids, size=SIZE)
    canvas = fitted_picture(file, canvas=best.canvas)
    expected = [
        canvas.crop((left, top, left + SIZE, top + SIZE))
        for top in range(0, best.canvas[1], SIZE)
        for left in range(0, best.canvas[0], SIZE)
    ]
    np.testing.assert_array_equal(found, np.stack([np.asarray(crop) for crop in expected]))


def fitted_picture(file, *, canvas):
    """Returns the picture fitted into the canvas by the release's rule."""
    picture = Image.open(file).convert("RGB")
    across, down = canvas[0] / picture.width, canvas[1] / picture.height
    if across < down:
        fitted = canvas[0], min(math.ceil(picture.height * across), canvas[1])
    else:
        fitted = min(math.ceil(picture.width * down), canvas[0]), canvas[1]
    whole = Image.new("RGB", canvas, (0, 0, 0))
    corner = (canvas[0] - fitted[0]) // 2, (canvas[1] - fitted[1]) // 2
    whole.paste(picture.resize(fitted), corner)
    return whole


@pytest.mark.parametrize(
    "pinpoints",
    [
        *("", "big", None, [], 7, {"a": 1}, [[33]], [[33, 64, 5]], [["a", 3]], [[1.5, 3]]),
        *([[0, 64]], [[-3, 64]], [[True, 64]], [[10**400, 3]], [[10**6, 10**6]], "(6x6),...,(1x1)"),
        *("(1x1),...,(999x999)", "(1x1),...,(99999x99999)", "(0x1)", "[(1, 2, 3)]", "a(1x1)b"),
        *([[32, 32]] * 5000, "[(32, 32)" + ", (32, 32)" * 5000 + "]", "(" * 50_000),
    ],
)
def test_other_pinpoints_are_refused(pinpoints):
    with pytest.raises(InputError, match="image_grid_pinpoints"):
        parse_pinpoints(pinpoints, size=SIZE)


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (32, 32, Grid(1, 1)),
        (10, 10, Grid(1, 1)),
        (64, 32, Grid(2, 1)),
        (32, 96, Grid(1, 3)),
        (100, 100, Grid(4, 4)),
        (96, 64, Grid(3, 2)),
        (1000, 1000, Grid(6, 6)),
        (2000, 20, Grid(6, 1)),
        (20, 2000, Grid(1, 6)),
    ],
)
def test_best_grid(width, height, grid):
    assert best_grid(width, height, grids=GRIDS, size=SIZE) == grid


def test_best_grid_keeps_most_and_then_wastes_least():
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 400, (200, 2)).tolist():

        def outcome(grid, width=width, height=height):
            scale = min(grid.columns * SIZE / width, grid.rows * SIZE / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            return kept, grid.columns * grid.rows * SIZE**2 - kept

        chosen = outcome(best_grid(width, height, grids=GRIDS, size=SIZE))
        for grid in GRIDS:
            kept, wasted = outcome(grid)
            assert kept < chosen[0] or (kept == chosen[0] and wasted >= chosen[1])


@pytest.mark.parametrize(("width", "height"), [(130, 50), (40, 150), (7, 5), (96, 64), (1, 90)])
def test_crops_tile_the_letterboxed_picture(width, height, tmp_path):
    path = save(tmp_path / "a.png", width, height)
    grid = best_grid(width, height, grids=GRIDS, size=SIZE)
    crops = read_image(path, size=SIZE, grids=GRIDS)
    assert crops.shape == (grid.columns * grid.rows, SIZE, SIZE, 3)
    assert crops.dtype == np.uint8

    canvas = np.concatenate(
        [np.concatenate(list(row), axis=1) for row in crops.reshape(grid.rows, -1, SIZE, SIZE, 3)]
    )
    high, wide = canvas.shape[:2]
    scale = min(wide / width, high / height)
    fitted = min(math.ceil(width * scale), wide), min(math.ceil(height * scale), high)
    left, top = (wide - fitted[0]) // 2, (high - fitted[1]) // 2
    inside = np.zeros((high, wide), bool)
    inside[top : top + fitted[1], left : left + fitted[0]] = True
    assert (canvas[~inside] == 0).all()
    picture = Image.open(path).resize(fitted, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(canvas[inside].reshape(fitted[1], fitted[0], 3), picture)


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P", "CMYK"])
def test_every_colour_mode(mode, tmp_path):
    path = save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), 40, 40, mode=mode)
    assert read_image(path, size=SIZE, grids=GRIDS).shape[1:] == (SIZE, SIZE, 3)


def test_crops_are_repeated_four_times():
    crops = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    groups = group_crops(crops)
    assert groups.shape == (3, 4, 8, 8, 3)
    for frame in range(4):
        np.testing.assert_array_equal(groups[:, frame], crops)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)).save(
        buffer, kind
    )
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp"])
@pytest.mark.parametrize("part", [0.02, 0.5])
def test_truncated_pictures(kind, part, tmp_path):
    path = tmp_path / f"a.{kind}"
    data = encoded(kind)
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=r"Picture .* cannot be read"):
        read_image(path, size=SIZE, grids=GRIDS)


@pytest.mark.parametrize("content", [b"no picture", bytes(3000)])
def test_files_that_are_no_picture(content, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a.png cannot be read"):
        read_image(path, size=SIZE, grids=GRIDS)


def test_missing_picture(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "none.png", size=SIZE, grids=GRIDS)


def png(path, width, height, *extra: tuple[bytes, bytes], bits=1) -> None:
    """Returns a compressed black grey-scale PNG with `extra` chunks before its pixels."""
    row = bytes(1 + -(-width * bits // 8))
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 30_000])
def test_pictures_too_large_to_open_safely(side, tmp_path):
    path = tmp_path / "bomb.png"
    png(path, side, side)
    assert path.stat().st_size < 200_000
    with pytest.raises(BadFile, match="too many pixels to decode safely") as error:
        read_image(path, size=SIZE, grids=GRIDS)
    assert error.value.kind == "too_large"


@pytest.mark.slow
def test_a_text_that_unpacks_to_much_is_refused(tmp_path):
    path = tmp_path / "text.png"
    png(path, 40, 40, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(300_000_000))))
    assert path.stat().st_size < 400_000
    with pytest.raises(BadFile, match="cannot be read") as error:
        read_image(path, size=SIZE, grids=GRIDS)
    assert error.value.kind == "damaged"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(16_384, 4000), (1, 16_384), (16_384, 1)])
def test_16384_pixels_wide(width, height, tmp_path):
    path = tmp_path / "wide.png"
    png(path, width, height)
    program = f"""
from pathlib import Path
from vxlpro_jax.data.video.images import DEFAULT_PINPOINTS, parse_pinpoints, read_image
grids = parse_pinpoints(DEFAULT_PINPOINTS, size=32)
print(len(read_image({str(path)!r}, size=32, grids=grids)))
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""
    output, _ = helpers.python("-c", program).communicate(timeout=60)
    crops, mebibytes = map(int, output.split())
    assert crops >= 1
    assert mebibytes < 600


def test_a_wrong_extension_does_no_harm(tmp_path):
    path = save(tmp_path / "a.png", 40, 40)
    expected = read_image(path, size=SIZE, grids=GRIDS)
    renamed = path.rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(renamed, size=SIZE, grids=GRIDS), expected)


def test_a_file_object_is_read_as_its_path_is(tmp_path):
    path = save(tmp_path / "a.png", 70, 40)
    expected = read_image(path, size=SIZE, grids=GRIDS)
    for _ in range(2):
        given = io.BytesIO(path.read_bytes())
        np.testing.assert_array_equal(read_image(given, size=SIZE, grids=GRIDS), expected)
    with pytest.raises(BadFile, match="Picture given as bytes cannot be read"):
        read_image(io.BytesIO(b"no picture"), size=SIZE, grids=GRIDS)


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(path)
    with pytest.raises(BadFile, match="cannot be read"):
        read_image(path, size=SIZE, grids=GRIDS)


def test_every_way_to_be_broken_has_its_kind(tmp_path):
    whole = encoded("jpeg")
    contents = {
        "zero-bytes.jpg": (b"", "empty"),
        "noise.jpg": (np.random.default_rng(0).bytes(5000), "damaged"),
        "half.jpg": (whole[: len(whole) // 2], "damaged"),
        "text.jpg": (b"<html>404</html>", "damaged"),
    }
    (tmp_path / "folder.jpg").mkdir()
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    kinds = {name: kind for name, (_, kind) in contents.items()}
    for name, kind in (kinds | {"nowhere.jpg": "missing", "folder.jpg": "missing"}).items():
        with pytest.raises(BadFile, match=name) as error:
            read_image(tmp_path / name, size=SIZE, grids=GRIDS)
        assert (name, error.value.kind) == (name, kind)
