"""Imputes hidden tokens from visible ones at the same place, without any learning.

Shapes: `G` groups, `f` frames of a group, `P` places, `C` channels.
"""

import itertools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Rule = Literal["copy_mean", "interpolate"]


def impute(targets: jax.Array, *, visible: jax.Array, rule: Rule) -> jax.Array:
    """Imputes every token from the visible tokens at its place.

    `copy_mean` takes the mean of the visible frames. `interpolate` interpolates between the nearest
    visible frames before and after, or takes the nearest one at either end. A place without a
    visible frame gets the mean of the group's visible tokens.

    Args:
        targets: [G, f, P, C] tokens; only visible ones are read.
        visible: [G, f, P], 1 for visible tokens, 0 for hidden ones.
        rule: `copy_mean` or `interpolate`.

    Returns:
        [G, f, P, C].
    """
    frames = targets.shape[1]
    bits = 2 ** jnp.arange(frames)
    pattern = jnp.einsum("gfp,f->gp", visible.astype(jnp.int32), bits)
    weights = jnp.asarray(_table(frames, rule), targets.dtype)[pattern]
    guess = jnp.einsum("gpts,gspc->gtpc", weights, targets)
    seen = visible[..., None].astype(targets.dtype)
    mean = (targets * seen).sum((1, 2)) / jnp.maximum(seen.sum((1, 2)), 1)
    return jnp.where((pattern == 0)[:, None, :, None], mean[:, None, None], guess)


def _table(frames: int, rule: Rule) -> np.ndarray:
    """Computes for each set of visible frames their weights in each frame: [patterns, f, f]."""
    table = np.zeros((2**frames, frames, frames))
    for bits in itertools.product((0, 1), repeat=frames):
        at = np.flatnonzero(bits)
        pattern = int(np.dot(bits, 2 ** np.arange(frames)))
        if len(at) and rule == "copy_mean":
            table[pattern][:, at] = 1 / len(at)
        elif len(at):
            for source in at:
                height = (at == source).astype(float)
                table[pattern][:, source] = np.interp(np.arange(frames), at, height)
    return table
