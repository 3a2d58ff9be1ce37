"""Lists the placement of a run's parameters on a mesh, without any device.

`python -m vxlpro_jax.aot.param_report --config=configs/stage2.py:3b [--devices N]` prints every
parameter with its shape, spec and bytes per device. Without `--devices` it uses the number of
devices that the mesh requires, or that of this machine if an axis of the mesh is -1.
"""

import math
import sys
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from vxlpro_jax.config.flags import read_run
from vxlpro_jax.config.schema import MeshConfig, TrainConfig
from vxlpro_jax.utils import cli

if TYPE_CHECKING:
    import jax

_GIB = 2**30


class Placed(NamedTuple):
    """One array of the state and its placement.

    Attributes:
        path: path of the array in its tree.
        shape: global shape.
        dtype: name of its dtype.
        spec: its `PartitionSpec`, as text.
        bytes_per_device: size in bytes of the shard on one device.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    bytes_per_device: int


def main(argv: list[str]) -> None:
    """Runs the command line `argv`."""
    run = read_run(argv, define=_define, doc=__doc__)
    report(run.config, devices=run.flags.devices)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("devices", 0, "Number of devices of the mesh.", flag_values=values)


def report(config: TrainConfig, *, devices: int = 0) -> None:
    """Prints the parameters of a run, and the memory that they and the optimizer's state take.

    Args:
        config: config of the run.
        devices: number of devices; 0 for that of the mesh, or of this machine.

    Raises:
        InputError: the mesh does not fit the devices.
    """
    # JAX is imported only after the flags are read.
    import jax
    from jax.sharding import AbstractMesh

    from vxlpro_jax.sharding.mesh import axis_sizes
    from vxlpro_jax.training.plan import RunPlan
    from vxlpro_jax.training.state import abstract_state
    from vxlpro_jax.utils import tree

    count = devices or _named_devices(config.mesh) or jax.device_count()
    sizes = axis_sizes(config.mesh, devices=count)
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    state = abstract_state(RunPlan(config), mesh=mesh)
    params = [placed(path, x) for path, x in tree.flatten(state.params).items()]
    moments = [placed("", x) for x in jax.tree.leaves(state.opt_state)]
    print(format_table(params))
    print(f"\nMesh {sizes}, {count} devices.")
    for name, part in (("Parameters", params), ("Optimizer state", moments)):
        elements = sum(math.prod(x.shape) for x in part)
        gib = sum(x.bytes_per_device for x in part) / _GIB
        print(f"{name}: {elements:,} elements, {gib:.3f} GiB per device.")


def placed(path: str, leaf: "jax.ShapeDtypeStruct") -> Placed:
    """Describes an array that has a sharding."""
    shard = leaf.sharding.shard_shape(leaf.shape)
    size = math.prod(shard) * leaf.dtype.itemsize
    spec = f"({', '.join(map(str, leaf.sharding.spec))})"
    return Placed(path, leaf.shape, str(leaf.dtype), spec, size)


def format_table(rows: list[Placed]) -> str:
    """Formats one aligned line per array."""
    cells = [("parameter", "shape", "type", "spec", "bytes per device")]
    for row in rows:
        shape = ", ".join(map(str, row.shape))
        cells.append((row.path, f"[{shape}]", row.dtype, row.spec, f"{row.bytes_per_device:,}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _named_devices(mesh: MeshConfig) -> int:
    """Returns the product of the mesh axes; 0 if one of them is -1."""
    return max(0, math.prod((mesh.data, mesh.fsdp, mesh.tensor, mesh.context)))


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
