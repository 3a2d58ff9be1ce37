"""The DTS's time-halving convolution.

Shapes: `G` samples, `t` time slots, `h`, `w` grid, `C` channels in and out.
"""

import jax
import jax.numpy as jnp


def halve_time(x: jax.Array, *, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """3x3x3 convolution with stride (2, 1, 1) and replicate padding.

    Time is padded by one slot in front and none behind, h and w by one on both sides, as in the
    release's `sae_utils.py::SamePadConv3d`.

    Args:
        x: [G, t, h, w, C], t even.
        kernel: [3, 3, 3, C, C] (time, row, column, in, out).
        bias: [C].

    Returns:
        [G, t/2, h, w, C].
    """
    padded = jnp.pad(x, ((0, 0), (1, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    out = jax.lax.conv_general_dilated(
        padded,
        kernel,
        window_strides=(2, 1, 1),
        padding="VALID",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return out + bias
