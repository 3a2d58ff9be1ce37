"""Operations on grids of patch features: resizing, the DTS layout, and pooling.

Shapes: `F` frames, `G` groups of four frames, `C` channels, `h`, `w` grid rows and columns.
"""

import math

import jax
from einops import rearrange, reduce

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, Layout
from vxlpro_jax.ops.precision import at_least_float32


def resize(features: jax.Array, *, side: int) -> jax.Array:
    """Resizes a square patch grid bilinearly, as the release's `llava_arch.py::interpolate`.

    Pixel centres are at halves (torch `align_corners=False`), without antialiasing, and the
    computation is in at least float32.

    Args:
        features: [F, h*w, C], h = w.
        side: side of the resulting grid.

    Returns:
        [F, side, side, C] in the features' type.
    """
    grid = rearrange(at_least_float32(features), "f (h w) c -> f h w c", h=_side(features))
    shape = (grid.shape[0], side, side, grid.shape[-1])
    resized = jax.image.resize(grid, shape, method="linear", antialias=False)
    return resized.astype(features.dtype)


def group_frames(grid: jax.Array, *, layout: Layout) -> jax.Array:
    """Arranges the features of four frames as one DTS sample.

    `released` repeats the release's reshape of (4G, C, h, w) to (G, C, 4, h, w), which moves SigLIP
    channel c of frame f to DTS channel (C/4) f + c // 4 at time slot c mod 4. `temporal` keeps
    channel c and puts frame f at time slot f.

    Args:
        grid: [4G, h, w, C].
        layout: `released` or `temporal`.

    Returns:
        [G, 4, h, w, C].
    """
    if layout == "temporal":
        return rearrange(grid, "(g t) h w c -> g t h w c", t=FRAMES_PER_GROUP)
    return rearrange(
        grid, "(g f) h w (c t) -> g t h w (f c)", f=FRAMES_PER_GROUP, t=FRAMES_PER_GROUP
    )


def pool(tokens: jax.Array, *, size: int) -> jax.Array:
    """Averages size x size places of a square grid.

    Args:
        tokens: [G, h*w, D], h = w.
        size: side of the averaged squares, a divisor of h; 2 in the release.

    Returns:
        [G, h*w / size^2, D].
    """
    side = _side(tokens) // size
    parts = {"h": side, "p": size, "w": side, "q": size}
    return reduce(tokens, "g (h p w q) d -> g (h w) d", "mean", **parts)


def _side(tokens: jax.Array) -> int:
    """Returns the side of the square grid whose places are axis 1."""
    return math.isqrt(tokens.shape[1])
