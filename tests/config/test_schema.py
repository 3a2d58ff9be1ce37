"""Tests configs: suggestions for unknown keys, types, presets, release sizes, config files."""

import dataclasses
import importlib
import math

import jax
import numpy as np
import pytest

from configs import common, stage2
from vxlpro_jax.config.parsing import from_mapping, override
from vxlpro_jax.config.schema import (
    PRESETS,
    DecoderConfig,
    DtsConfig,
    MeshConfig,
    ModelConfig,
    ParamGroup,
    TrainConfig,
    VisionConfig,
)
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.utils.errors import InputError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_step": 3}, r"Unknown key config.total_step: did you mean 'total_steps'\?"),
        ({"optim": {"clip": 1.0}}, r"config.optim.clip: did you mean 'clip_norm'\?"),
        ({"model": {"vision": {"widht": 8}}}, r"model.vision.widht: did you mean 'width'\?"),
        ({"zzz": 1}, "Unknown key config.zzz: known are .*seed.*total_steps"),
        ({"total_steps": 1.5}, "config.total_steps is 1.5: expected int"),
        ({"total_steps": True}, "config.total_steps is True: expected int"),
        ({"seed": "1"}, "config.seed is '1': expected int"),
        ({"optim": {"lr": "high"}}, "config.optim.lr is 'high': expected float"),
        ({"optim": {"lr": False}}, "config.optim.lr is False: expected float"),
        ({"model": {"decoder": {"tied_head": 1}}}, "decoder.tied_head is 1: expected bool"),
        ({"model": {"dts": {"layout": "x"}}}, "layout is 'x': choose one of 'released', 'temp"),
        ({"model": {"preset": "7b"}}, "Unknown preset '7b': known are 3b, tiny"),
        ({"optim": {"groups": ({"patern": "x"},)}}, "groups.patern: did you mean 'pattern'"),
        ({"model": 3}, "config.model is 3: expected"),
        ({"keep_ratio": 3}, "config.keep_ratio is 3: expected"),
        ({"keep_ratio": ("low", 1.0)}, "config.keep_ratio is 'low': expected float"),
        ({"keep_ratio": (0.9, 0.5)}, "keep_ratio must be two numbers above 0, the lower one first"),
        ({"keep_ratio": (0.0, 0.5)}, "keep_ratio must be two numbers above 0"),
        ({"pose_max_frames": -4}, "pose_max_frames is -4: expected a whole number from 0"),
        ({"keep_ratio": (0.5,)}, "config.keep_ratio is .*: expected 2 values"),
    ],
)
def test_keys_and_values_that_do_not_fit_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        from_mapping(TrainConfig, values)


def test_values_replace_defaults_and_nothing_else():
    values = {
        "seed": 3,
        "optim": {"lr": 1, "groups": [{"pattern": "^vision/", "lr_scale": 0}]},
        "model": {"preset": "3b", "decoder": {"depth": 2}},
        "keep_ratio": [1, 1],
    }
    config = from_mapping(TrainConfig, values)
    assert config.optim.lr == 1.0
    assert isinstance(config.optim.lr, float)
    assert config.optim.groups == (ParamGroup(pattern="^vision/", lr_scale=0.0),)
    assert config.keep_ratio == (1.0, 1.0)
    deep = dataclasses.replace(PRESETS["3b"].decoder, depth=2)
    assert config.model == dataclasses.replace(PRESETS["3b"], decoder=deep)
    rest = dataclasses.replace(
        config, seed=0, optim=TrainConfig().optim, model=TrainConfig().model, keep_ratio=(0.7, 0.99)
    )
    assert rest == TrainConfig()
    hash(config)  # The config is frozen at every level, so that it can be a static argument.


@pytest.mark.parametrize("name", PRESETS)
def test_release_format_round_trip(name):
    config = dataclasses.replace(PRESETS[name], dts=DtsConfig(layout="temporal"), pool=4)
    assert ModelConfig.from_release(config.to_release()) == config
    untied = dataclasses.replace(config.decoder, tied_head=False, max_positions=77)
    config = dataclasses.replace(config, decoder=untied)
    assert ModelConfig.from_release(config.to_release()) == config


def test_release_config_without_a_tower_means_so400m():
    """As in the release, there is no `vision_config`, and the deleted last layer is not counted."""
    release = PRESETS["3b"].to_release()
    del release["vision_config"]
    assert ModelConfig.from_release(release).vision == VisionConfig()
    assert PRESETS["3b"].to_release()["vision_config"]["num_hidden_layers"] == 27


def test_release_config_pools_by_two():
    release = PRESETS["3b"].to_release()
    assert release["mm_spatial_pool_stride"] == 2
    del release["visual_pool"]
    assert ModelConfig.from_release(release).tokens_per_group == 144


def test_config_of_another_model_is_refused():
    release = PRESETS["tiny"].to_release()
    del release["hidden_size"], release["rope_theta"]
    with pytest.raises(InputError, match=r"lacks hidden_size, rope_theta: not a Video-XL-Pro"):
        ModelConfig.from_release(release)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"vision": VisionConfig(width=48)}, "vision.width must be a multiple of 32"),
        ({"vision": VisionConfig(width=64, num_heads=5)}, "vision.width must be a multiple of"),
        ({"decoder": DecoderConfig(width=100, num_heads=3)}, "decoder.width must be a multiple"),
        ({"decoder": DecoderConfig(num_heads=16, num_kv_heads=3)}, "decoder.num_heads must be a"),
        ({"pool": 5}, "dts.grid must be a multiple of pool"),
        ({"pool": 0}, "pool is 0: expected a whole number from 1 to"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(part, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(**part)


def test_released_size_has_the_released_number_of_parameters():
    shapes = jax.tree.leaves(abstract_params(PRESETS["3b"]))
    assert sum(math.prod(x.shape) for x in shapes) == 3_604_752_160


def test_untied_head_adds_exactly_one_matrix():
    config = PRESETS["tiny"]
    untied = dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, tied_head=False)
    )
    tied_size, untied_size = (
        sum(x.size for x in jax.tree.leaves(abstract_params(c))) for c in (config, untied)
    )
    assert untied_size - tied_size == config.decoder.vocab_size * config.decoder.width


# ---- Config files -------------------------------------------------------------------------------


def config_modules():
    names = sorted(path.stem for path in importlib.resources.files("configs").glob("stage*.py"))
    return [importlib.import_module(f"configs.{name}") for name in names]


@pytest.mark.parametrize("module", config_modules(), ids=lambda module: module.__name__)
@pytest.mark.parametrize("preset", common.PRESETS)
def test_every_config_file_converts(module, preset):
    config = from_mapping(TrainConfig, module.get_config(preset).to_dict())
    sizes = dataclasses.replace(
        PRESETS[preset],
        vision=dataclasses.replace(PRESETS[preset].vision, remat=config.model.vision.remat),
        decoder=dataclasses.replace(PRESETS[preset].decoder, remat=config.model.decoder.remat),
        dts=config.model.dts,
        selector_gradient=config.model.selector_gradient,
    )
    assert config.model == sizes
    assert config.mesh == MeshConfig()
    assert config.total_steps > 0


def test_config_files_know_every_preset():
    assert set(common.PRESETS) == set(PRESETS)


def test_no_argument_means_tiny():
    assert stage2.get_config() == stage2.get_config("tiny")


def test_options_follow_the_preset():
    config = from_mapping(TrainConfig, stage2.get_config("3b,frames=256,batch=4").to_dict())
    assert (config.data.max_frames, config.data.batch_size) == (256, 4)
    default = from_mapping(TrainConfig, stage2.get_config("3b").to_dict())
    changed = dataclasses.replace(
        config, data=dataclasses.replace(config.data, max_frames=128, batch_size=64)
    )
    assert changed == default


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("7b", "Unknown preset '7b': known are tiny, 3b"),
        ("3b,frame=8", "Unknown option 'frame': known are frames"),
        ("3b,frames=many", "Option 'frames' is 'many': give a whole number"),
        ("3b,frames", "Option 'frames' is '': give a whole number"),
    ],
)
def test_arguments_that_no_config_file_takes_are_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        stage2.get_config(argument)


def test_feature_cache_of_the_tiny_preset_follows_cache_dir():
    values = stage2.get_config().to_dict()
    moved = override(TrainConfig, values, path="data.cache_dir", text="/elsewhere")
    assert from_mapping(TrainConfig, moved).data.feature_cache == "/elsewhere/features"


@pytest.mark.parametrize("bounds", [(0.7, 0.99), (1.0, 1.0), (1.2, 1.4), (0.4, 1.6), (0.5, 3.0)])
def test_mean_keep_ratio_is_that_of_the_clipped_draws(bounds):
    draws = np.minimum(np.linspace(*bounds, 100_001), 1)
    assert TrainConfig(keep_ratio=bounds).mean_keep_ratio == pytest.approx(draws.mean(), abs=1e-4)
