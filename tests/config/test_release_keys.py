"""Every key of a config.json is used, refused by name or known to be irrelevant."""

import dataclasses
import itertools
import math

import pytest

from vxlpro_jax.config import limits, release_keys, release_rope
from vxlpro_jax.config.release_keys import KEYS, VISION_KEYS, Only, Rule, Used
from vxlpro_jax.config.schema import PRESETS, ModelConfig, YarnConfig
from vxlpro_jax.utils import nested
from vxlpro_jax.utils.errors import InputError

TINY = PRESETS["tiny"]
RELEASE = TINY.to_release()
TOWER = RELEASE["vision_config"]
USED = [key for key, use in KEYS.items() if isinstance(use, Used)]
USED_BY_TOWER = [key for key, use in VISION_KEYS.items() if isinstance(use, Used)]
NONSENSE = ("x", [1], {"a": 1}, math.nan, math.inf, -math.inf, -5, 10**400, 2**31, True, 1.5e300)


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def refused(config) -> str:
    with pytest.raises(InputError) as caught:
        ModelConfig.from_release(config)
    message = str(caught.value)
    assert len(message) <= 500
    assert "\n" not in message
    return message


FITTING = (("tie_word_embeddings", True), ("rope_theta", 2**31))


@pytest.mark.parametrize(
    ("key", "value"), [pair for pair in itertools.product(USED, NONSENSE) if pair not in FITTING]
)
def test_sizes_of_wrong_types_and_ranges_are_refused_by_name(key, value):
    assert key in refused(RELEASE | {key: value})


@pytest.mark.parametrize("key", USED_BY_TOWER)
@pytest.mark.parametrize("value", NONSENSE)
def test_the_towers_too(key, value):
    message = refused(RELEASE | {"vision_config": TOWER | {key: value}})
    assert f"vision_config.{key}" in message


@pytest.mark.parametrize("value", ["yes", 0, 1, "no", [], 0.0])
def test_tying_is_true_or_false(value):
    assert "expected true or false" in refused(RELEASE | {"tie_word_embeddings": value})


@pytest.mark.parametrize("key", [key for key in USED if KEYS[key].required])
def test_null_sizes_are_refused_and_absent_ones_listed(key):
    assert f"{key} is null" in refused(RELEASE | {key: None})
    assert f"lacks {key}" in refused(without(RELEASE, key))


@pytest.mark.parametrize("key", [key for key, use in KEYS.items() if isinstance(use, Only)])
def test_other_computations_are_refused_and_null_is_absent(key):
    assert key in refused(RELEASE | {key: "another"})
    assert ModelConfig.from_release(RELEASE | {key: None}) == TINY
    for value in KEYS[key].values:
        assert ModelConfig.from_release(RELEASE | {key: value}) == TINY


@pytest.mark.parametrize(
    "change",
    [
        {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 4096},
        {"use_sliding_window": "yes"},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"layer_types": "sliding_attention"},
        {"head_dim": 64},
        {"head_dim": "32"},
        {"mm_hidden_size": 1152},
        {"mm_spatial_pool_stride": 4},
        {"dts_layout": "x"},
        {"dts_layout": 3},
        {"vision_config": [1]},
        {"rope_scaling": "yarn"},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
        {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        {"rope_scaling": {"type": ["yarn"]}},
        {"rope_scaling": {"factor": 4.0}},
        {"rope_scaling": {"type": "yarn"}},
        {"rope_scaling": {"type": "yarn", "factor": 0.5}},
        {"rope_scaling": {"type": "yarn", "factor": math.nan}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": "32"}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "alpha": 1}},
        {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 0}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 10**400, "mscale_all_dim": 1}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": "1", "mscale_all_dim": -1}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "partial_rotary_factor": 0.5}},
        {"rope_scaling": {"type": "yarn", "rope_type": "default", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": "1e6"}},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
    ],
)
def test_rules_over_several_keys_name_one_of_them(change):
    assert any(key in refused(RELEASE | change) for key in change)


@pytest.mark.parametrize(
    "change",
    [
        {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 4},
        {"use_sliding_window": True, "sliding_window": None},
        {"layer_types": ["full_attention"] * 4},
        {"head_dim": 32},
        {"rope_scaling": None},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ],
)
def test_settings_that_change_nothing_are_accepted(change):
    assert ModelConfig.from_release(RELEASE | change) == TINY


def test_both_forms_of_the_rotary_embedding_are_read():
    stock = without(RELEASE, "rope_theta")
    theta = ModelConfig.from_release(stock | {"rope_parameters": {"rope_theta": 5e3}}).decoder
    assert theta == dataclasses.replace(TINY.decoder, rope_theta=5e3)
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    forms = [
        {"rope_theta": 1e6, "rope_scaling": yarn},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"} | without(yarn, "type")},
        {"rope_theta": 1e6, "rope_scaling": yarn, "rope_parameters": yarn | {"rope_theta": 1e6}},
        {
            "rope_theta": 1e6,
            "rope_scaling": without(yarn, "original_max_position_embeddings"),
            "original_max_position_embeddings": 1024,
        },
        # transformers does the same if the factor is null.
        {"rope_theta": 1e6, "rope_scaling": yarn | {"factor": None}},
    ]
    for form in forms:
        found = ModelConfig.from_release(stock | form).decoder
        assert found.yarn == YarnConfig(factor=4.0, original_positions=1024), form
        assert found.context == 4096
    clash = forms[0] | {"rope_parameters": yarn | {"factor": 2.0}}
    assert "contradicts itself" in refused(stock | clash)


def test_unknown_keys_are_named_and_nothing_else():
    config = RELEASE | {"an_unknown_key": 1, "vision_config": TOWER | {"another": 2}}
    assert release_keys.unknown(config) == ["an_unknown_key", "vision_config.another"]
    assert release_keys.unknown(RELEASE) == []
    assert ModelConfig.from_release(config) == TINY


def test_every_key_of_the_source_travels_on_and_the_sizes_are_ours():
    source = PRESETS["3b"].to_release() | {
        "image_grid_pinpoints": [[384, 768]],
        "eos_token_id": 7,
        "mm_use_im_patch_token": True,
        "an_unknown_key": [1],
    }
    source["vision_config"] = source["vision_config"] | {"another": 2}
    written = TINY.to_release(source)
    assert ModelConfig.from_release(written) == TINY
    for key in ("image_grid_pinpoints", "eos_token_id", "mm_use_im_patch_token", "an_unknown_key"):
        assert written[key] == source[key]
    assert written["vision_config"]["another"] == 2
    assert written.keys() >= source.keys()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
        {"type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16},
    ],
)
def test_a_rescaled_rotary_embedding_is_written_as_it_was_or_anew(block):
    source = RELEASE | {"rope_scaling": block}
    model = ModelConfig.from_release(source)
    assert model.to_release(source)["rope_scaling"] == block
    assert ModelConfig.from_release(model.to_release()) == model
    assert "rope_scaling" not in TINY.to_release(source)
    assert model.to_release(RELEASE)["rope_scaling"]["rope_type"] == "yarn"


def test_the_table_names_fields_and_functions_that_exist():
    fields = nested.flatten(dataclasses.asdict(ModelConfig()), separator=".")
    for use in (*KEYS.values(), *VISION_KEYS.values()):
        if isinstance(use, Used):
            assert use.field in fields
            assert f"model.{use.field}" in limits.LIMITS
        if isinstance(use, Rule):
            module = release_rope if use.function.startswith("release_rope.") else release_keys
            assert callable(getattr(module, use.function.split(".")[-1]))
