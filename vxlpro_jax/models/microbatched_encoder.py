"""Encodes the frames of a batch a few groups at a time, so that memory stays bounded.

Shapes: `B` rows, `G` groups of four frames a row, `P` places, `C` width of the tower, `N` visual
tokens of a group, `D` decoder width.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from einops import rearrange

from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.models.video_xl_pro import apply_method
from vxlpro_jax.ops.microbatch import microbatched_map
from vxlpro_jax.sharding.params import current_specs


def group_features(
    params: Mapping[str, Any], frames: jax.Array, *, config: ModelConfig, microbatch: int
) -> jax.Array:
    """Runs the vision tower and resizes its grid: uint8 [B, G, 4, H, W, 3] -> [B, G, 4, P, C].

    Args:
        params: parameters of the model, of which only `vision` is used.
        frames: RGB frames.
        config: sizes of the model.
        microbatch: number of groups that a device works on at a time; 0 for all of them.
    """
    apply = functools.partial(apply_method, config, "group_features")
    return _map_groups(apply, {"vision": params["vision"]}, frames, microbatch=microbatch)


def compress_and_project(
    params: Mapping[str, Any], features: jax.Array, *, config: ModelConfig, microbatch: int
) -> jax.Array:
    """Runs the DTS and the projector and pools: [B, G, 4, P, C] -> [B, G, N, D].

    Only `dts` and `projector` of `params` are used; the other arguments are as above.
    """
    used = {name: params[name] for name in ("dts", "projector")}
    apply = functools.partial(apply_method, config, "compress_and_project")
    return _map_groups(apply, used, features, microbatch=microbatch)


def compress(
    params: Mapping[str, Any], features: jax.Array, *, config: ModelConfig, microbatch: int
) -> jax.Array:
    """Runs the DTS: [B, G, 4, P, C] -> [B, G, P, C]. Only `dts` of `params` is used."""
    apply = functools.partial(apply_method, config, "compress_groups")
    return _map_groups(apply, {"dts": params["dts"]}, features, microbatch=microbatch)


def project_and_pool(
    params: Mapping[str, Any], compressed: jax.Array, *, config: ModelConfig, microbatch: int
) -> jax.Array:
    """Runs the projector and pools: [B, G, P, C] -> [B, G, N, D]. Only `projector` is used."""
    apply = functools.partial(apply_method, config, "project_and_pool")
    used = {"projector": params["projector"]}
    return _map_groups(apply, used, compressed, microbatch=microbatch)


def _map_groups(function, params, x, *, microbatch):
    groups = rearrange(x, "b g ... -> (b g) ...")
    specs = current_specs(params)
    mapped = microbatched_map(function, params, groups, microbatch=microbatch, specs=specs)
    return rearrange(mapped, "(b g) ... -> b g ...", b=len(x))
