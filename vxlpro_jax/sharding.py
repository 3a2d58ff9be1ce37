"""One table: parameter path to PartitionSpec. Knows trees and paths, not models.

Mesh axes: `data` replicates parameters, `fsdp` shards them and their optimizer state, `tensor`
splits heads and hidden units, `context` splits sequences. Stacked layers lead with an unsharded
axis. Optimizer state follows the parameter whose path ends its own.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax import tree
from vxlpro_jax.config import InputError, MeshConfig

AXES = ("data", "fsdp", "tensor", "context")

RULES: tuple[tuple[str, P], ...] = (
    (r"(vision|decoder)/layers/attn/[qkv]/kernel", P(None, "fsdp", "tensor")),
    (r"(vision|decoder)/layers/attn/[qkv]/bias", P(None, "tensor")),
    (r"(vision|decoder)/layers/attn/out/kernel", P(None, "tensor", "fsdp")),
    (r"vision/layers/attn/out/bias", P()),
    (r"decoder/layers/mlp/(gate|up)", P(None, "tensor", "fsdp")),
    (r"decoder/layers/mlp/down", P(None, "fsdp", "tensor")),
    (r"vision/layers/mlp/fc1/kernel", P(None, "fsdp", "tensor")),
    (r"vision/layers/mlp/fc1/bias", P(None, "tensor")),
    (r"vision/layers/mlp/fc2/kernel", P(None, "tensor", "fsdp")),
    (r"vision/layers/mlp/fc2/bias", P()),
    (r"(vision|decoder)/layers/ln[12]/(scale|bias)", P()),
    (r"vision/patch_embed/kernel", P(None, "fsdp")),
    (r"vision/patch_embed/bias", P()),
    (r"vision/pos_embed", P(None, "fsdp")),
    (r"vision/post_ln/(scale|bias)", P()),
    (r"dts/temporal_encoding", P()),
    (r"dts/block\d/(spatial|temporal)/norm/(scale|bias)", P()),
    (r"dts/block\d/(spatial|temporal)/(q|k|v|qkv)/kernel", P("fsdp", "tensor")),
    (r"dts/block\d/(spatial|temporal)/out/kernel", P("tensor", "fsdp")),
    (r"dts/block\d/(spatial|temporal)/(q|k|v|qkv|out)/bias", P()),
    (r"dts/block\d/temporal/rel_[kv]", P(None, "fsdp")),
    (r"dts/block\d/conv/kernel", P(None, None, None, "fsdp", "tensor")),
    (r"dts/block\d/conv/bias", P()),
    (r"recot/mask_token", P()),
    (r"recot/(temporal|spatial)_query/kernel", P("fsdp", "tensor")),
    (r"recot/decoder/unmix/kernel", P("fsdp", "tensor")),
    (r"recot/decoder/pos_embed", P(None, "fsdp")),
    (r"recot/decoder/layer\d+/(attn/[qkv]|mlp/fc1)/kernel", P("fsdp", "tensor")),
    (r"recot/decoder/layer\d+/(attn/out|mlp/fc2)/kernel", P("tensor", "fsdp")),
    (r"recot/decoder/out/kernel", P("tensor", "fsdp")),
    (r"recot/decoder/.*(scale|bias)", P()),
    (r"(projector|selector)/(fc1|text|window/[qkv])/kernel", P("fsdp", "tensor")),
    (r"(projector|selector)/(fc2|window/out)/kernel", P("tensor", "fsdp")),
    (r"(projector|selector)/.*/bias", P()),
    (r"decoder/embed", P("tensor", "fsdp")),
    (r"decoder/norm/scale", P()),
    (r"decoder/lm_head/kernel", P("fsdp", "tensor")),
)


def make_mesh(config: MeshConfig) -> Mesh:
    """A mesh over all devices, to be entered with `jax.set_mesh`.

    Raises:
        InputError: the axes do not multiply to the number of devices, or more than one is -1.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    count = jax.device_count()
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    impossible = len(free) > 1 or fixed < 1 or min(sizes.values()) < -1
    if impossible or count % fixed or (not free and fixed != count):
        raise InputError(
            f"Mesh {sizes} does not fit {count} devices: make the axes multiply to {count}, or set"
            " one of them to -1."
        )
    sizes |= dict.fromkeys(free, count // fixed)
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec_of(path: str) -> P:
    """The table's entry for a parameter path.

    Raises:
        ValueError: no rule matches, or more than one does.
    """
    matches = [(pattern, spec) for pattern, spec in RULES if re.fullmatch(pattern, path)]
    if len(matches) != 1:
        rules = ", ".join(pattern for pattern, _ in matches) or "none"
        raise ValueError(f"Parameter {path!r} must match one sharding rule; it matches: {rules}.")
    return matches[0][1]


def param_shardings(params: Mapping[str, Any], *, mesh: Mesh) -> dict[str, Any]:
    """NamedSharding of each leaf of a parameter tree (arrays or shapes)."""
    flat = tree.flatten(params)
    return tree.unflatten({path: _fit(spec_of(path), x, mesh) for path, x in flat.items()})


def state_shardings(state: Any, *, params: Mapping[str, Any], mesh: Mesh) -> Any:
    """NamedSharding of each leaf of any tree that holds copies of the parameter tree.

    A leaf whose path ends with a parameter's path gets that parameter's; any other is replicated.
    """
    specs = {path: spec_of(path) for path in tree.flatten(params)}

    def sharding(key_path, leaf):
        parts = jax.tree_util.keystr(key_path, simple=True, separator="/").split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        spec = next((specs[tail] for tail in tails if tail in specs), P())
        return _fit(spec, leaf, mesh)

    return jax.tree_util.tree_map_with_path(sharding, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over data x fsdp."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def check_batch(batch_size: int, *, mesh: Mesh) -> None:
    """Rejects a batch that the data axes cannot share evenly.

    Raises:
        InputError: `batch_size` is not a multiple of data x fsdp.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
        raise InputError(
            f"data.batch_size {batch_size} is not divisible by data x fsdp = {shards}: change it"
            " or the mesh."
        )


def _fit(spec: P, leaf: Any, mesh: Mesh) -> NamedSharding:
    """The spec without the axes that do not divide the leaf's dimension (151,937 rows, say)."""
    kept = [
        axis if axis is None or leaf.shape[dim] % mesh.shape[axis] == 0 else None
        for dim, axis in enumerate(spec)
    ]
    return NamedSharding(mesh, P(*kept))
