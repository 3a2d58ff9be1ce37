"""One table: parameter path to PartitionSpec. Knows trees and paths, not models.

Mesh axes: `data` replicates parameters, `fsdp` shards them and their optimizer state, `tensor`
splits heads and hidden units, `context` splits sequences. Stacked layers lead with an unsharded
axis. Optimizer state follows the parameter whose path ends its own.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

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


# What is larger must be spread where there are devices to spread it over, in elements.
_MOST_WHOLE = 4 * 2**20


def axis_sizes(config: MeshConfig, *, devices: int) -> dict[str, int]:
    """Devices along each axis, the axis that is -1 filled in.

    Raises:
        InputError: the axes do not multiply to `devices`, more than one is -1, or `data` cannot be
            shared by the slices.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    impossible = len(free) > 1 or fixed < 1 or min(sizes.values()) < -1
    if impossible or devices % fixed or (not free and fixed != devices):
        raise InputError(
            f"Mesh {sizes} does not fit {devices} devices: make the axes multiply to {devices}, or"
            " set one of them to -1."
        )
    sizes |= dict.fromkeys(free, devices // fixed)
    if config.num_slices < 1 or sizes["data"] % config.num_slices:
        raise InputError(
            f"mesh.num_slices is {config.num_slices}, mesh.data {sizes['data']}: only gradients"
            " cross slices, so data must be a multiple of them."
        )
    return sizes


def make_mesh(config: MeshConfig, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the devices, by default all there are, to be entered with `jax.set_mesh`.

    Neighbours along an axis are neighbours in the network as far as the axes let them. With several
    slices, neighbours along `data` are of different slices and all else is within one.

    Raises:
        InputError: as `axis_sizes`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(config, devices=len(devices))
    auto = (AxisType.Auto,) * len(AXES)
    if config.num_slices == 1:
        arranged = mesh_utils.create_device_mesh(
            tuple(sizes.values()), devices, allow_split_physical_axes=True
        )
        return Mesh(arranged, AXES, axis_types=auto)
    within = {**sizes, "data": sizes["data"] // config.num_slices}
    arranged = mesh_utils.create_hybrid_device_mesh(
        tuple(within.values()),
        (config.num_slices, *[1] * (len(AXES) - 1)),
        devices,
        process_is_granule=not hasattr(devices[0], "slice_index"),
        allow_split_physical_axes=True,
    )
    return Mesh(arranged, AXES, axis_types=auto)


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


def state_shardings(state: Any, *, params: Mapping[str, Any], mesh: Mesh | AbstractMesh) -> Any:
    """NamedSharding of each leaf of any tree that holds copies of the parameter tree.

    A leaf whose path ends with a parameter's path gets that parameter's; any other is replicated.

    Raises:
        InputError: a large array would be whole on a mesh that could spread it.
    """
    specs = {path: spec_of(path) for path in tree.flatten(params)}
    may_spread = mesh.shape["fsdp"] * mesh.shape["tensor"] > 1

    def sharding(key_path, leaf):
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        parts = name.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        spec = next((specs[tail] for tail in tails if tail in specs), P())
        fitted = _fit(spec, leaf, mesh)
        if may_spread and leaf.size > _MOST_WHOLE and fitted.shard_shape(leaf.shape) == leaf.shape:
            raise InputError(
                f"{name} {leaf.shape} would be whole on every device, because mesh"
                f" {dict(mesh.shape)} does not divide its dimensions: set mesh.fsdp and mesh.tensor"
                " to such that do, and mesh.data or mesh.context to the rest."
            )
        return fitted

    return jax.tree_util.tree_map_with_path(sharding, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over data x fsdp."""
    return NamedSharding(mesh, P(("data", "fsdp")))


class Reader(NamedTuple):
    """Attributes: `index` of the block of a batch's rows that a process reads; `count` of them."""

    index: int
    count: int


def readers(mesh: Mesh) -> dict[int, Reader]:
    """By process, which rows it reads: those of its devices.

    Raises:
        InputError: as `assign_rows`.
    """
    rows = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    return assign_rows([[device.process_index for device in devices] for devices in rows])


def assign_rows(processes: Sequence[Sequence[int]]) -> dict[int, Reader]:
    """As `readers`, for the processes of the devices that hold each row.

    Processes that hold the same rows, because another axis than data and fsdp spans them, read the
    same.

    Raises:
        InputError: two processes hold some of their rows, but not all of them, together.
    """
    held: dict[int, list[int]] = {}
    for row, holders in enumerate(processes):
        for process in set(holders):
            held.setdefault(process, []).append(row)
    blocks = sorted({tuple(rows) for rows in held.values()})
    if any(len(block) * len(blocks) != len(processes) for block in blocks):
        raise InputError(
            f"The mesh deals {len(processes)} rows (data x fsdp) unevenly to {len(held)} processes:"
            " make one a multiple of the other."
        )
    return {
        process: Reader(blocks.index(tuple(rows)), len(blocks)) for process, rows in held.items()
    }


def check_batch(batch_size: int, *, mesh: Mesh, parts: int = 1) -> None:
    """Rejects a batch of which the data axes cannot share each of `parts` evenly.

    Raises:
        InputError: `batch_size` is not a multiple of data x fsdp x parts.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if parts < 1 or batch_size % (shards * parts):
        times = f" x accumulate = {shards} x {parts}" if parts != 1 else f" = {shards}"
        raise InputError(
            f"data.batch_size {batch_size} is not divisible by data x fsdp{times}: change it"
            " or the mesh."
        )


def _fit(spec: P, leaf: Any, mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The spec without the axes that do not divide the leaf's dimension (151,937 rows, say)."""
    kept = [
        axis if axis is None or leaf.shape[dim] % mesh.shape[axis] == 0 else None
        for dim, axis in enumerate(spec)
    ]
    return NamedSharding(mesh, P(*kept))
