"""Tests field names of earlier releases in config files, run folders and command lines."""

import pytest

from vxlpro_jax.config.migration import RENAMED_FIELDS, RENAMED_VALUES, current_path
from vxlpro_jax.config.parsing import from_mapping, override
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.utils.errors import InputError

EARLIER = {
    "task": "answer",
    "accumulate": 2,
    "groups_at_once": 3,
    "skip_to_frames": 64,
    "model": {
        "preset": "tiny",
        "selector_gradient": "gates",
        "vision": {"remat": True},
        "decoder": {"remat": False},
    },
    "data": {"workdir_cache": "/cache", "batch_size": 4},
}


def field_at(config, path):
    for name in path.split("."):
        config = getattr(config, name)
    return config


def test_earlier_names_and_values_are_read():
    config = from_mapping(TrainConfig, EARLIER)
    assert config.objective == "sft"
    assert config.grad_accum_steps == 2
    assert config.encode_microbatch == 3
    assert config.pose_max_frames == 64
    assert config.model.selector_gradient == "straight_through"
    assert (config.model.vision.remat, config.model.decoder.remat) == ("all", "none")
    assert (config.data.cache_dir, config.data.batch_size) == ("/cache", 4)


@pytest.mark.parametrize("path", [*RENAMED_FIELDS.values(), *RENAMED_VALUES])
def test_every_present_name_is_a_field(path):
    field_at(TrainConfig(), path)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"accumulate": 2, "grad_accum_steps": 2}, "config.accumulate .* config.grad_accum_steps"),
        ({"grad_accum_steps": 2, "accumulate": 2}, "config.accumulate .* config.grad_accum_steps"),
        ({"data": {"workdir_cache": "a", "cache_dir": "b"}}, "config.data.workdir_cache"),
    ],
)
def test_a_field_set_under_both_names_is_refused(values, names):
    with pytest.raises(InputError, match=names):
        from_mapping(TrainConfig, values)


@pytest.mark.parametrize(("old", "new"), RENAMED_FIELDS.items())
def test_command_lines_may_use_earlier_names(old, new):
    assert current_path(old) == new
    if new != "objective":
        text = "7"
        config = from_mapping(TrainConfig, override(TrainConfig, {}, path=old, text=text))
        assert str(field_at(config, new)) == text


def test_command_lines_may_use_earlier_values():
    values = override(TrainConfig, {}, path="model.vision.remat", text="true")
    assert from_mapping(TrainConfig, values).model.vision.remat == "all"
