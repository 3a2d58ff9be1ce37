"""Prints where a run's parameters live, before a device is there.

`python -m vxlpro_jax.sharding --config=configs/stage2.py:3b [--devices N]` lists every parameter
with its shape, spec and bytes per device. Without `--devices` it counts those that the mesh names,
or those of this machine if an axis is -1.
"""

import math
import sys
from typing import NamedTuple

import jax
from absl import flags
from jax.sharding import AbstractMesh, PartitionSpec

from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.sharding.mesh import AXES, axis_sizes
from vxlpro_jax.training import optimizer as optimizer_lib
from vxlpro_jax.training.state import abstract_state
from vxlpro_jax.utils import cli, tree


class Placed(NamedTuple):
    """One array of the state: where it lives and what it takes on a device."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec
    bytes_per_device: int


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""

    def define(values):
        flags.DEFINE_integer("devices", 0, "Devices of the mesh.", flag_values=values)

    run = read_run(argv, define=define, doc=__doc__)
    count = run.flags.devices or _named_devices(run.config.mesh) or jax.device_count()
    sizes = axis_sizes(run.config.mesh, devices=count)
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    optimizer = optimizer_lib.optimizer(run.config.optim, total_steps=run.config.total_steps)
    state = abstract_state(run.config, optimizer=optimizer, mesh=mesh)
    params = [placed(path, x) for path, x in tree.flatten(state.params).items()]
    moments = [placed("", x) for x in jax.tree.leaves(state.opt_state)]
    print(table(params))
    print(f"\nMesh {sizes}, {count} devices.")
    for name, part in (("Parameters", params), ("Optimizer state", moments)):
        elements = sum(math.prod(x.shape) for x in part)
        gib = sum(x.bytes_per_device for x in part) / 2**30
        print(f"{name}: {elements:,} elements, {gib:.3f} GiB per device.")


def placed(path: str, leaf: jax.ShapeDtypeStruct) -> Placed:
    """Tells of an array with a sharding."""
    shard = leaf.sharding.shard_shape(leaf.shape)
    size = math.prod(shard) * leaf.dtype.itemsize
    return Placed(path, leaf.shape, str(leaf.dtype), leaf.sharding.spec, size)


def table(rows: list[Placed]) -> str:
    """One aligned line an array."""
    cells = [("parameter", "shape", "type", "spec", "bytes per device")]
    for row in rows:
        shape, spec = (", ".join(map(str, x)) for x in (row.shape, row.spec))
        cells.append((row.path, f"[{shape}]", row.dtype, f"({spec})", f"{row.bytes_per_device:,}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _named_devices(mesh: MeshConfig) -> int:
    """The product of the axes; 0 if one of them is left open."""
    return max(0, math.prod(getattr(mesh, axis) for axis in AXES))


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
