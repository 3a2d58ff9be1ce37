"""Frames of a batch to what the decoder or ReCoT reads, a few groups at a time.

Shapes: `B` rows, `G` groups of four frames a row, `P` places, `C` width of the tower, `N` visual
tokens of a group, `D` decoder width.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from einops import rearrange

from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.models.video_xl_pro import VideoXLPro
from vxlpro_jax.ops.microbatch import microbatched_map


def group_features(
    params: Mapping[str, Any], frames: jax.Array, *, config: ModelConfig, at_once: int
) -> jax.Array:
    """Tower and resize: uint8 [B, G, 4, H, W, 3] -> [B, G, 4, P, C].

    Args:
        params: of the model, or just `vision`.
        frames: RGB.
        config: of the model.
        at_once: groups that a device works on at a time; 0 for all.
    """
    apply = functools.partial(_apply, config, "group_features")
    return _by_group(apply, {"vision": params["vision"]}, frames, at_once=at_once)


def compress_and_project(
    params: Mapping[str, Any], features: jax.Array, *, config: ModelConfig, at_once: int
) -> jax.Array:
    """DTS, projector and pooling: [B, G, 4, P, C] -> [B, G, N, D]; arguments as above."""
    used = {name: params[name] for name in ("dts", "projector")}
    apply = functools.partial(_apply, config, "condense")
    return _by_group(apply, used, features, at_once=at_once)


def compress(
    params: Mapping[str, Any], features: jax.Array, *, config: ModelConfig, at_once: int
) -> jax.Array:
    """DTS: [B, G, 4, P, C] -> [B, G, P, C]; arguments as above, of `params` just `dts` is used."""
    apply = functools.partial(_apply, config, "compress_groups")
    return _by_group(apply, {"dts": params["dts"]}, features, at_once=at_once)


def project_and_pool(
    params: Mapping[str, Any], compressed: jax.Array, *, config: ModelConfig, at_once: int
) -> jax.Array:
    """Projector and pooling: [B, G, P, C] -> [B, G, N, D]; arguments likewise."""
    apply = functools.partial(_apply, config, "shorten")
    return _by_group(apply, {"projector": params["projector"]}, compressed, at_once=at_once)


def _apply(config, method, params, groups):
    return VideoXLPro(config).apply({"params": params}, groups, method=method)


def _by_group(function, params, x, *, at_once):
    flat = microbatched_map(function, params, rearrange(x, "b g ... -> (b g) ..."), at_once=at_once)
    return rearrange(flat, "(b g) ... -> b g ...", b=len(x))
