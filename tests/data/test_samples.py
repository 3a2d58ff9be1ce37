"""Tests how a record of several pictures becomes a sample."""

import json

import numpy as np
import pytest
from helpers import chat
from PIL import Image

from vxlpro_jax.data.loader.samples import RowShape, SampleReader
from vxlpro_jax.data.sources.load import load_visual_records
from vxlpro_jax.data.video.images import Grid, read_image
from vxlpro_jax.utils.errors import InputError

SIZE = 28


@pytest.fixture
def pictures(tmp_path):
    """Reads a record of `count` pictures in a row of `groups` crops."""
    names = [f"{n}.png" for n in range(5)]
    for n, name in enumerate(names):
        pixels = np.random.default_rng(n).integers(0, 256, (SIZE, 2 * SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)

    def read(count, *, groups):
        sample = {"image": names[:count], "conversations": chat("<image>\nWho?", "Me.")}
        (tmp_path / "data.json").write_text(json.dumps([sample]))
        reader = SampleReader.build(
            None,
            shape=RowShape(groups=groups, text=0, image_size=SIZE),
            pinpoints=[[SIZE, SIZE], [2 * SIZE, SIZE]],
        )
        return reader.visual(load_visual_records(tmp_path / "data.json")[0])

    return read


def crops(folder, *names, grid):
    return [read_image(folder / name, size=SIZE, grids=[grid]) for name in names]


def test_pictures_follow_one_another(pictures, tmp_path):
    visual = pictures(2, groups=4)
    expected = np.concatenate(crops(tmp_path, "0.png", "1.png", grid=Grid(2, 1)))
    assert visual.groups.shape == (4, 4, SIZE, SIZE, 3)
    np.testing.assert_array_equal(visual.groups, np.repeat(expected[:, None], 4, axis=1))
    assert visual.times.tolist() == [0.0] * 4


def test_pictures_share_a_row(pictures, tmp_path):
    visual = pictures(3, groups=5)
    expected = np.concatenate(crops(tmp_path, "0.png", "1.png", "2.png", grid=Grid(1, 1)))
    np.testing.assert_array_equal(visual.groups[:, 0], expected)


def test_too_many_pictures_are_an_error(pictures):
    with pytest.raises(InputError, match=r"5 pictures, too many for a row of 4 crops"):
        pictures(5, groups=4)
