"""A function of many frames on a few at a time, so that memory does not grow with their number.

Shapes: `F` frames, or groups of frames.
"""

from collections.abc import Callable

import jax

from vxlpro_jax.ops import mesh


def map_parts(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, *, at_once: int
) -> jax.Array:
    """`function(x)` for one that treats each of the leading axis alike: [F, ...] -> [F, ...].

    Of the parts only what goes in and what comes out is kept; the backward pass computes the rest
    again, a part at a time.

    Args:
        function: from a part [f, ...] to [f, ...].
        x: [F, ...], to be spread over the mesh as `mesh.shard_frames` does.
        at_once: the most that a device works on at a time; 0 for all that it has.
    """
    x = mesh.shard_frames(x)
    parts = _parts(len(x) // mesh.frame_shards(len(x)), at_once=at_once)
    if parts == 1:
        return function(x)
    apply = jax.checkpoint(function, prevent_cse=False)
    return mesh.join_frames(jax.lax.map(apply, mesh.cut_frames(x, parts=parts)))


def _parts(count: int, *, at_once: int) -> int:
    """The least number of equal parts of at most `at_once`."""
    if not at_once:
        return 1
    return next(n for n in range(1, count + 1) if count % n == 0 and count // n <= at_once)
