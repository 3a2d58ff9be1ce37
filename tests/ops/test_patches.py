"""Compares resizing, DTS layouts and pooling with their formulas."""

import numpy as np
import pytest

from vxlpro_jax.ops.patches import group_frames, pool, resize

pytestmark = pytest.mark.usefixtures("float64")


def bilinear(grid, side):
    """Resizes with half-pixel centres, no antialiasing: [h, h, C] -> [side, side, C]."""
    size = len(grid)
    at = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, size - 1), at - low
    rows = grid[low] * (1 - part)[:, None, None] + grid[high] * part[:, None, None]
    return rows[:, low] * (1 - part)[:, None] + rows[:, high] * part[:, None]


@pytest.mark.parametrize("side", [27, 24, 12, 4])
def test_resize_equals_bilinear_interpolation(side):
    features = np.random.default_rng(0).standard_normal((2, side * side, 3))
    out = resize(features, side=24)
    for frame, resized in zip(features, out, strict=True):
        expected = bilinear(frame.reshape(side, side, 3), 24)
        np.testing.assert_allclose(resized, expected, atol=1e-12)


def test_released_layout_moves_channels_as_documented():
    """SigLIP channel c of frame f lands in channel (C/4) f + c // 4 at time slot c mod 4."""
    groups, width = 3, 32
    grid = np.random.default_rng(0).standard_normal((4 * groups, 2, 3, width))
    out = group_frames(grid, layout="released")
    for group, frame, channel in np.ndindex(groups, 4, width):
        found = out[group, channel % 4, :, :, width // 4 * frame + channel // 4]
        np.testing.assert_array_equal(found, grid[4 * group + frame, :, :, channel])


def test_released_layout_is_the_release_s_reshape():
    """(4G, C, h, w) reshaped, not transposed, to (G, C, 4, h, w)."""
    grid = np.random.default_rng(0).standard_normal((8, 2, 3, 16))
    released = grid.transpose(0, 3, 1, 2).reshape(2, 16, 4, 2, 3)
    out = group_frames(grid, layout="released")
    np.testing.assert_array_equal(out, released.transpose(0, 2, 3, 4, 1))


def test_temporal_layout_keeps_channels():
    grid = np.random.default_rng(0).standard_normal((8, 2, 3, 16))
    out = group_frames(grid, layout="temporal")
    for group, frame in np.ndindex(2, 4):
        np.testing.assert_array_equal(out[group, frame], grid[4 * group + frame])


@pytest.mark.parametrize("size", [1, 2, 3, 24])
def test_pooling_takes_means_of_squares(size):
    tokens, side = np.random.default_rng(0).standard_normal((2, 576, 5)), 24 // size
    out = np.asarray(pool(tokens, size=size)).reshape(2, side, side, 5)
    grid = tokens.reshape(2, 24, 24, 5)
    for row, column in np.ndindex(side, side):
        block = grid[:, size * row :, size * column :][:, :size, :size]
        np.testing.assert_allclose(out[:, row, column], block.mean((1, 2)), atol=1e-12)
