"""The convolution of the DTS that halves the time axis.

Shapes: `G` samples, `t` time slots, `h`, `w` grid, `C` channels in, `D` channels out.
"""

from typing import cast

import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.sharding import activations


def halve_time(x: jax.Array, *, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Applies a 3x3x3 convolution with stride (2, 1, 1) and replicate padding.

    Time is padded by one slot in front and none at the end, h and w by one on both sides, as in the
    release's `sae_utils.py::SamePadConv3d`. The padding in front is a copy of the first slot, so
    the two kernel taps that meet it are summed instead, which saves a fifth of the DTS's
    multiplications.

    Args:
        x: [G, t, h, w, C], t even.
        kernel: [3, 3, 3, C, D], for time, row, column, input and output channel.
        bias: [D].

    Returns:
        [G, t/2, h, w, D].
    """
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    kernel = activations.gather_rows(kernel)
    merged = jnp.stack([kernel[0] + kernel[1], kernel[2]])
    outputs = [_convolve(x[:, :2], merged)]
    if x.shape[1] > 2:
        outputs.append(_convolve(x[:, 1:], kernel))
    return jnp.concatenate(outputs, axis=1) + bias


def _convolve(x, kernel):
    """Convolves with stride 2 in time, without padding: [G, t, h+2, w+2, C] -> [G, t', h, w, D]."""
    if activations.platform() == "cpu":
        return by_products(x, kernel)
    return by_convolution(x, kernel)


def by_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the convolution as one matrix product per time and row offset.

    XLA's own convolutions are several times slower on CPUs, especially in the backward pass.
    """
    taps, rows, columns = kernel.shape[0], x.shape[2] - 2, x.shape[3] - 2
    x = jnp.concatenate([x[:, :, :, at : at + columns] for at in range(3)], axis=-1)
    kernel = rearrange(kernel, "t h w c d -> t h (w c) d")
    products = (
        slots[:, :, row : row + rows] @ kernel[time, row]
        for time, slots in enumerate(_by_tap(x, taps=taps))
        for row in range(3)
    )
    return cast(jax.Array, sum(products))


def by_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes one 2D convolution over the grid, with the time slots of an output as channels."""
    x = jnp.concatenate(_by_tap(x, taps=kernel.shape[0]), axis=-1)
    out = jax.lax.conv_general_dilated(
        rearrange(x, "g t h w c -> (g t) h w c"),
        rearrange(kernel, "t h w c d -> h w (t c) d"),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return rearrange(out, "(g t) h w d -> g t h w d", g=len(x))


def _by_tap(x, *, taps):
    """Returns for each of the kernel's time taps the slots [G, t', ...] that it multiplies."""
    slots = (x.shape[1] - taps) // 2 + 1
    return [x[:, time : time + 2 * slots - 1 : 2] for time in range(taps)]
