"""Device meshes.

Axes: `data` replicates parameters, `fsdp` shards them and their optimizer state, `tensor` splits
heads and hidden units, `context` splits sequences.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.utils.errors import InputError

AXES = ("data", "fsdp", "tensor", "context")


def axis_sizes(config: MeshConfig, *, devices: int) -> dict[str, int]:
    """Computes the number of devices along each axis, and resolves an axis of -1.

    Raises:
        InputError: the axes do not multiply to `devices`, several are -1, or `data` is not a
            multiple of the number of slices.
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
            f"mesh.num_slices is {config.num_slices} and mesh.data {sizes['data']}: make data a"
            " multiple of num_slices, because only gradients may cross slices."
        )
    return sizes


def make_mesh(config: MeshConfig, *, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh of the devices, by default all of them, for `jax.set_mesh`.

    Neighbours along an axis are neighbours in the network as far as possible. With several slices
    only the axis `data` crosses slices.

    Raises:
        InputError: as in `axis_sizes`.
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
