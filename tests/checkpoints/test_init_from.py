"""Tests runs that are initialised from several folders."""

import json

import jax
import numpy as np
import pytest
from helpers import MICRO

from vxlpro_jax.checkpoints import init_from
from vxlpro_jax.checkpoints.params import write_params
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow


def write(folder, *, parts, value):
    folder.mkdir()
    shapes = abstract_params(MICRO)
    leaves = {p: jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), shapes[p]) for p in parts}
    write_params(folder / "params", leaves=leaves)
    (folder / "config.json").write_text(json.dumps(MICRO.to_release()))
    return str(folder)


@pytest.fixture
def two(tmp_path):
    first = write(tmp_path / "first", parts=("vision", "dts"), value=1)
    second = write(tmp_path / "second", parts=("vision", "decoder"), value=2)
    return f"{first}, {second}"


def test_each_part_comes_from_the_first_that_holds_it(two):
    sources = init_from.open_sources(two)
    params = init_from.read_parts(sources, like=abstract_params(MICRO), dtype="float32")
    values = {path.split("/")[0]: np.unique(x).tolist() for path, x in tree.flatten(params).items()}
    assert values == {"vision": [1.0], "dts": [1.0], "decoder": [2.0]}
    assert init_from.holder(sources, "decoder").root.name == "second"
    assert init_from.holder(sources, "projector") is None


def test_no_source_gives_nothing():
    assert init_from.read_parts((), like=abstract_params(MICRO), dtype="float32") == {}
    assert init_from.open_sources("") == ()


def test_source_of_no_use_is_told(two):
    sources = init_from.open_sources(two)
    like = {"projector": abstract_params(MICRO)["projector"]}
    with pytest.raises(InputError, match=r"first holds only dts, vision, but this run"):
        init_from.read_parts(sources, like=like, dtype="float32")


def test_source_behind_one_that_holds_all_of_it_is_told(two):
    first, second = two.split(", ")
    sources = init_from.open_sources(f"{first},{second},{first}")
    with pytest.raises(InputError, match=r"every part in .*first is already taken from"):
        init_from.read_parts(sources, like=abstract_params(MICRO), dtype="float32")
