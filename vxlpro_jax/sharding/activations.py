"""Sharding of activations over the mesh. Without a mesh these functions change nothing.

Frames and their groups are sharded over every axis except `tensor`, because the tower and the DTS
process them independently. The decoder's sequences are sharded by row and, along their length, by
`context`. Inside a `jax.shard_map` only the axes that it leaves to the partitioner count.

With `n` devices along `context` a sequence is cut into 2n pieces, and device `i` holds pieces `i`
and `2n - 1 - i`: early queries see few keys and late ones many, so that every such pair has the
same work. `sequence_order` is the resulting order of positions.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P

BATCH_AXES = ("data", "fsdp")
FRAME_AXES = ("data", "fsdp", "context")
ALL_AXES = (*FRAME_AXES, "tensor")

LANES = 128

FRAMES = P(FRAME_AXES)
SEQUENCES = P(BATCH_AXES, "context")


def shard_frames(x: jax.Array) -> jax.Array:
    """Shards the leading axis, frames or groups, over data x fsdp x context if they divide it."""
    return _constrain(x, P(_dividing(FRAMES[0], x.shape[0])))


def frame_axes() -> tuple[str, ...]:
    """Returns the mesh axes over which `shard_frames` shards as many frames as they divide."""
    free = free_axes()
    return tuple(axis for axis in FRAME_AXES if axis in free)


def shard_rows(x: jax.Array) -> jax.Array:
    """Shards the leading axis, rows of a batch, over data x fsdp."""
    return _constrain(x, P(BATCH_AXES))


def split_microbatches(x: jax.Array, *, parts: int) -> jax.Array:
    """Splits rows [B, ...] into [parts, B / parts, ...], without moving a row between devices.

    The rows are sharded as `shard_rows` does.
    """
    # Each step is constrained, because without this XLA's partitioner has mixed up rows.
    cut = rearrange(x, "(d n b) ... -> n d b ...", d=axis_size(BATCH_AXES), n=parts)
    cut = _constrain(cut, P(None, BATCH_AXES))
    return _constrain(rearrange(cut, "n d b ... -> n (d b) ..."), P(None, BATCH_AXES))


def gather_rows(kernel: jax.Array) -> jax.Array:
    """Gathers a parameter [..., in, out] along every axis but the last, before it is reshaped.

    Otherwise XLA's partitioner sends the pieces of the reshaped kernel one by one.
    """
    return _constrain(kernel, P(*[None] * (kernel.ndim - 1), P.UNCONSTRAINED))


def shard_positions(x: jax.Array) -> jax.Array:
    """Shards rows over data x fsdp and the second axis over context, if it divides that axis."""
    splits = x.shape[1] % axis_size(("context",)) == 0
    return _constrain(x, SEQUENCES if splits else P(BATCH_AXES))


def splits_sequence(length: int) -> bool:
    """Returns whether `context` cuts sequences of this length into two equal pieces per device."""
    devices = axis_size(("context",))
    return devices > 1 and length % (2 * devices) == 0


def sequence_order(length: int) -> np.ndarray:
    """Returns int32 [L], the position in the sequence of each index of a scattered sequence."""
    positions = np.arange(length, dtype=np.int32)
    if not splits_sequence(length):
        return positions
    early, late = np.split(rearrange(positions, "(c t) -> c t", c=2 * axis_size(("context",))), 2)
    return np.stack([early, late[::-1]], axis=1).reshape(-1)


def scatter_sequence(x: jax.Array) -> jax.Array:
    """Reorders [B, L, ...] to `sequence_order` and shards it by row and position.

    Returns:
        [B, L', ...], L' >= L, padded with zeros to a length that `context` and the platform's
        attention can divide.
    """
    missing = -x.shape[1] % _length_unit()
    x = jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)))
    if not splits_sequence(x.shape[1]):
        return shard_rows(x)
    pieces = rearrange(x, "b (two n t) ... -> b two n t ...", two=2, n=axis_size(("context",)))
    pairs = jnp.stack([pieces[:, 0], pieces[:, 1, ::-1]], axis=2)
    return _constrain(pairs.reshape(x.shape), SEQUENCES)


def gather_sequence(x: jax.Array) -> jax.Array:
    """Restores the order of a scattered sequence [B, L', ...] and gathers it along `context`."""
    if not splits_sequence(x.shape[1]):
        return x
    x = _constrain(x, P(BATCH_AXES, None, *[P.UNCONSTRAINED] * (x.ndim - 2)))
    pairs = rearrange(x, "b (n two t) ... -> b n two t ...", n=axis_size(("context",)), two=2)
    early, late = pairs[:, :, 0], pairs[:, ::-1, 1]
    return jnp.concatenate([early, late], axis=1).reshape(x.shape)


def _length_unit() -> int:
    """Returns the divisor of lengths: 2 per device of `context`, or 128 (lanes) on TPUs."""
    devices = axis_size(("context",))
    if platform() == "tpu":
        return LANES * devices
    return 2 * devices if devices > 1 else 1


class Axes(NamedTuple):
    """Mesh axes of an array's rows, positions and heads; None for a dimension not sharded."""

    rows: tuple[str, ...] | None = None
    positions: str | None = None
    heads: str | None = None


def attention_axes(partition: P, *, rows: int, length: int, heads: int, kv_heads: int) -> Axes:
    """Returns the axes of `partition` that divide the shape [rows, length, heads, H] of queries."""
    tensor = axis_size(("tensor",))
    is_split = len(partition) > 1 and splits_sequence(length)
    shares = heads % tensor == 0 and (kv_heads % tensor == 0 or tensor % kv_heads == 0)
    return Axes(
        rows=_dividing(partition[0], rows),
        positions="context" if is_split else None,
        heads="tensor" if shares else None,
    )


def axis_size(axes: tuple[str, ...] = ALL_AXES) -> int:
    """Returns the number of devices along the given axes of the current mesh; 1 without a mesh."""
    shape = jax.sharding.get_abstract_mesh().shape
    free = free_axes()
    return math.prod(shape[axis] for axis in axes if axis in free)


def free_axes() -> frozenset[str]:
    """Returns the axes of the current mesh over which the partitioner may shard arrays."""
    current = jax.sharding.get_abstract_mesh()
    return frozenset(current.axis_names) - frozenset(current.manual_axes)


def single_axes() -> frozenset[str]:
    """Returns the free axes of the current mesh that have a single device."""
    return frozenset(axis for axis in free_axes() if axis_size((axis,)) == 1)


def platform() -> str:
    """Returns the platform of the current mesh (`cpu`, `gpu`, `tpu`), even without its devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = device.platform if device else jax.default_backend()
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def _dividing(axes: tuple[str, ...], count: int) -> tuple[str, ...] | None:
    """Returns the first of these that divides `count`: the given axes, the batch axes, or none."""
    choices = (tuple(a for a in some if a in free_axes()) for some in (axes, BATCH_AXES))
    return next((some for some in choices if some and count % axis_size(some) == 0), None)


def _constrain(x, spec):
    free = free_axes()
    if not free:
        return x

    def left(entry):
        """Returns the axes of a dimension over which the partitioner may still shard."""
        if entry is None or entry is P.UNCONSTRAINED:
            return entry
        names = (entry,) if isinstance(entry, str) else entry
        return tuple(name for name in names if name in free) or None

    return jax.lax.with_sharding_constraint(x, P(*map(left, spec)))
