"""Compares tower, resize, DTS and projector with the reference."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from torch_reference.dts import to_groups
from torch_reference.siglip import to_dts_grid

from vxlpro_jax.config.schema import DtsConfig
from vxlpro_jax.models.video_xl_pro import VideoXLPro
from vxlpro_jax.ops import patches


def apply(config, params, method, *args):
    run = jax.jit(lambda params, *args: VideoXLPro(config).apply(params, *args, method=method))
    return np.asarray(run({"params": params}, *args))


def difference(ours, tensor):
    theirs = tensor.detach().numpy()
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max()


def test_tower_and_resize_equal_torch(config, oracle, params):
    frames = np.random.default_rng(0).integers(0, 256, (3, 66, 66, 3), np.uint8)
    features = oracle.model.vision_tower.vision_tower(torch.from_numpy(frames))
    ours = apply(config, params, "features", frames)
    assert difference(ours, to_dts_grid(features).permute(0, 2, 3, 1)) < 1e-10


@pytest.mark.parametrize("side", [27, 24, 16])
def test_resize_from_any_grid(side):
    features = np.random.default_rng(0).standard_normal((2, side * side, 5))
    theirs = to_dts_grid(torch.from_numpy(features)).permute(0, 2, 3, 1)
    assert difference(np.asarray(patches.resize(features, side=24)), theirs) < 1e-12


def test_resize_of_bfloat16_is_computed_in_float32():
    features = jax.numpy.asarray(
        np.random.default_rng(0).standard_normal((1, 729, 3)), jax.numpy.bfloat16
    )
    exact = patches.resize(features.astype(jax.numpy.float32), side=24)
    resized = patches.resize(features, side=24)
    assert resized.dtype == features.dtype
    np.testing.assert_array_equal(resized, exact.astype(jax.numpy.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["released", "temporal"])
def test_dts_equals_torch_in_both_layouts(config, oracle, params, layout):
    config = dataclasses.replace(config, dts=DtsConfig(layout=layout))
    grid = np.random.default_rng(1).standard_normal((8, 24, 24, config.vision.width))
    frames_first = torch.from_numpy(grid).permute(0, 3, 1, 2)
    theirs = oracle.model.sae(to_groups(frames_first, layout=layout))[:, :, 0]
    ours = apply(config, params, "compress", grid)
    assert difference(ours, theirs.permute(0, 2, 3, 1)) < 1e-10


def test_released_layout_puts_channel_c_of_frame_f_where_the_release_does():
    width = 8
    frame, channel = np.meshgrid(np.arange(4), np.arange(width), indexing="ij")
    grid = np.broadcast_to((100 * frame + channel)[:, None, None], (4, 1, 1, width))
    groups = patches.group_frames(jax.numpy.asarray(grid), layout="released")
    for f, c in np.ndindex(4, width):
        assert groups[0, c % 4, 0, 0, (width // 4) * f + c // 4] == 100 * f + c


def test_projector_equals_torch(config, oracle, params):
    compressed = np.random.default_rng(2).standard_normal((2, 24, 24, config.vision.width))
    theirs = oracle.model.mm_projector(torch.from_numpy(compressed).flatten(1, 2))
    ours = apply(config, params, "project", compressed)
    assert difference(ours, theirs) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_visual_tokens_are_means_of_places(config, oracle, params, size):
    config = dataclasses.replace(config, pool=size)
    features = np.random.default_rng(2).standard_normal((2, 4, 576, config.vision.width))
    ours = apply(config, params, "compress_and_project", features)
    compressed = apply(config, params, "compress", features.reshape(8, 24, 24, -1))
    projected = oracle.model.mm_projector(torch.from_numpy(compressed.copy()).flatten(1, 2))
    grid = projected.transpose(1, 2).unflatten(-1, (24, 24))
    pooled = torch.nn.functional.avg_pool2d(grid, size).flatten(2).transpose(1, 2)
    assert ours.shape[1] == config.tokens_per_group
    assert difference(ours, pooled) < 1e-10
