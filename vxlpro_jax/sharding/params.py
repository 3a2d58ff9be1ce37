"""One table from parameter paths to PartitionSpecs. It depends on trees and paths, not on models.

Stacked layers have an unsharded leading axis. Optimizer state is sharded like the parameter whose
path ends its own path.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

Rules = tuple[tuple[str, P], ...]

RULES: Rules = (
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
    (r"recot/\w+_query/kernel", P("fsdp", "tensor")),
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


# Arrays with more elements must be sharded if there are devices over which to shard them.
_MOST_WHOLE = 4 * 2**20


def spec_of(path: str, *, rules: Rules = RULES) -> P:
    """Looks up the table's entry for a parameter path.

    Raises:
        ValueError: no rule matches, or more than one does.
    """
    matches = [(pattern, spec) for pattern, spec in rules if re.fullmatch(pattern, path)]
    if len(matches) != 1:
        matched = ", ".join(pattern for pattern, _ in matches) or "none"
        raise ValueError(f"Parameter {path!r} must match one sharding rule; it matches: {matched}.")
    return matches[0][1]


def state_shardings(
    state: Any,
    *,
    params: Mapping[str, Any],
    mesh: Mesh | AbstractMesh,
    more_rules: Rules = (),
) -> Any:
    """Makes the NamedSharding of each leaf of a tree that holds copies of the parameter tree.

    A leaf whose path ends with a parameter's path gets that parameter's sharding; any other leaf is
    replicated. `more_rules` covers parameters that are missing in the table.

    Raises:
        InputError: a large array would be replicated on a mesh that could shard it.
    """
    specs = {path: spec_of(path, rules=RULES + more_rules) for path in tree.flatten(params)}
    may_shard = mesh.shape["fsdp"] * mesh.shape["tensor"] > 1

    def sharding(key_path, leaf):
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        parts = name.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        spec = next((specs[tail] for tail in tails if tail in specs), P())
        fitted = _fit(spec, leaf, mesh)
        if may_shard and leaf.size > _MOST_WHOLE and fitted.shard_shape(leaf.shape) == leaf.shape:
            raise InputError(
                f"{name} {leaf.shape} would be replicated on every device, because mesh"
                f" {dict(mesh.shape)} does not divide its dimensions: set mesh.fsdp and mesh.tensor"
                " to values that divide them, and mesh.data or mesh.context to the rest."
            )
        return fitted

    return jax.tree_util.tree_map_with_path(sharding, state)


def current_specs(params: Any) -> Any:
    """Returns the table's PartitionSpec of each parameter of a nested dict for the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()

    def spec(key_path, leaf):
        path = jax.tree_util.keystr(key_path, simple=True, separator="/")
        return P() if mesh.empty else _fit(spec_of(path), leaf, mesh).spec

    return jax.tree_util.tree_map_with_path(spec, params)


def _fit(spec: P, leaf: Any, mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Removes axes that the mesh lacks or that do not divide the leaf's dimension, as 151,937."""
    kept = [
        axis if axis in mesh.shape and leaf.shape[dim] % mesh.shape[axis] == 0 else None
        for dim, axis in enumerate(spec)
    ]
    return NamedSharding(mesh, P(*kept))
