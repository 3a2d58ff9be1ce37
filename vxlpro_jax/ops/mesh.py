"""Where activations live on the mesh; without a mesh these do nothing.

Frames (and their groups) are spread over every axis that is not `tensor`, because the tower and the
DTS treat them alike; the decoder's sequences are spread by row and, along their length, by context.
"""

import math

import jax
from jax.sharding import PartitionSpec as P

BATCH_AXES = ("data", "fsdp")
FRAME_AXES = ("data", "fsdp", "context")
ALL_AXES = (*FRAME_AXES, "tensor")


def shard_frames(x: jax.Array) -> jax.Array:
    """Spreads the leading axis, frames or groups, over data x fsdp x context where it divides."""
    axes = FRAME_AXES if x.shape[0] % axis_size(FRAME_AXES) == 0 else BATCH_AXES
    return _constrain(x, P(axes))


def shard_sequences(x: jax.Array) -> jax.Array:
    """Spreads [B, L, ...] by row over data x fsdp, and by position over context if it divides."""
    context = "context" if x.shape[1] % axis_size(("context",)) == 0 else None
    return _constrain(x, P(BATCH_AXES, context))


def axis_size(axes: tuple[str, ...]) -> int:
    """Devices along the given axes of the current mesh; 1 without a mesh."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in axes)


def _constrain(x, spec):
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)
