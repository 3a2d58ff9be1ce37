"""Rotary position embeddings of the decoder's heads and of the selector's full width.

Angles are computed in at least float32: bfloat16 cannot distinguish position 256 from 257.
Shapes: `B` rows, `T` positions, `N` heads, `H` head width, `D` model width.
"""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.precision import at_least_float32


def rotate_heads(x: jax.Array, *, positions: jax.Array, theta: float) -> jax.Array:
    """Applies Qwen2's rotary embedding, which pairs channel i with channel i + H/2.

    Args:
        x: [B, T, N, H] queries or keys.
        positions: int32 [B, T], position of each.
        theta: base of the frequencies.
    """
    y = at_least_float32(x)
    cos, sin = _angles(positions, width=x.shape[-1], theta=theta, dtype=y.dtype)
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second = jnp.split(y, 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def rotate_full_width(x: jax.Array, *, positions: jax.Array, theta: float = 1e6) -> jax.Array:
    """Applies the selector's rotary embedding, which pairs neighbouring channels of the full width.

    Args:
        x: [..., T, D] visual sequence.
        positions: int32 [..., T], index in the visual sequence.
        theta: base of the frequencies; 1e6 in the release (`llava_arch.py`).
    """
    y = at_least_float32(x)
    cos, sin = _angles(positions, width=x.shape[-1], theta=theta, dtype=y.dtype)
    even, odd = y[..., 0::2], y[..., 1::2]
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def _angles(positions, *, width: int, theta: float, dtype):
    """Computes cosines and sines [..., width // 2] of position * theta^(-2i / width)."""
    exponents = jnp.arange(0, width, 2, dtype=dtype) / width
    angles = positions[..., None].astype(dtype) * theta**-exponents
    # Otherwise XLA's CPU backend computes them again for every head.
    return jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))
