"""The DTS's time-halving convolution.

Shapes: `G` samples, `t` time slots, `h`, `w` grid, `C` channels in, `D` channels out.
"""

import jax
import jax.numpy as jnp
from einops import rearrange


def halve_time(x: jax.Array, *, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """3x3x3 convolution with stride (2, 1, 1) and replicate padding.

    Time is padded by one slot in front and none behind, h and w by one on both sides, as in the
    release's `sae_utils.py::SamePadConv3d`. Written as nine matrix products, one for each time and
    row offset, because XLA's own 3-D convolution is several times slower on CPUs, above all
    backward, and no faster elsewhere at these widths.

    Args:
        x: [G, t, h, w, C], t even.
        kernel: [3, 3, 3, C, D] (time, row, column, in, out).
        bias: [D].

    Returns:
        [G, t/2, h, w, D].
    """
    slots, rows, columns = x.shape[1:4]
    padded = jnp.pad(x, ((0, 0), (1, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    beside = jnp.concatenate([padded[:, :, :, at : at + columns] for at in range(3)], axis=-1)
    kernel = rearrange(kernel, "t h w c d -> t h (w c) d")
    out = bias
    for time in range(3):
        for row in range(3):
            out = out + beside[:, time : time + slots - 1 : 2, row : row + rows] @ kernel[time, row]
    return out
