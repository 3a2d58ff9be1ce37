"""Rotary position embeddings of the decoder's heads and of the selector's full width.

Angles are computed in at least float32: bfloat16 cannot distinguish position 256 from 257.
Shapes: `B` rows, `T` positions, `N` heads, `H` head width, `D` model width.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from vxlpro_jax.config.schema import YarnConfig
from vxlpro_jax.ops.precision import at_least_float32

_PLAIN = YarnConfig()


def rotate_heads(
    x: jax.Array, *, positions: jax.Array, theta: float, yarn: YarnConfig = _PLAIN
) -> jax.Array:
    """Applies Qwen2's rotary embedding, which pairs channel i with channel i + H/2.

    Args:
        x: [B, T, N, H] queries or keys.
        positions: int32 [B, T], position of each.
        theta: base of the frequencies.
        yarn: rescaling of the frequencies.
    """
    y = at_least_float32(x)
    if yarn.is_off:
        cos, sin = _angles(positions, width=x.shape[-1], theta=theta, dtype=y.dtype)
    else:
        frequencies = yarn_frequencies(x.shape[-1], theta=theta, yarn=yarn, dtype=y.dtype)
        cos, sin = (yarn.scale * part for part in _turn(positions, frequencies))
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


def yarn_frequencies(
    width: int, *, theta: float, yarn: YarnConfig, dtype: npt.DTypeLike = np.float32
) -> np.ndarray:
    """Computes the frequencies [width // 2] that YaRN derives from theta^(-2i / width).

    Fast frequencies are unchanged, slow ones are divided by the factor, and those in between are
    interpolated. Rounding follows the order of transformers' `_compute_yarn_parameters`.
    """
    powers = np.asarray(theta, dtype) ** (np.arange(0, width, 2, dtype=dtype) / width)
    bounds = [
        width * math.log(yarn.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (yarn.beta_fast, yarn.beta_slow)
    ]
    if yarn.truncate:
        bounds = [math.floor(bounds[0]), math.ceil(bounds[1])]
    low, high = max(bounds[0], 0), min(bounds[1], width - 1)
    high += 0.001 * (low == high)
    slow = np.clip((np.arange(width // 2, dtype=dtype) - low) / (high - low), 0, 1)
    fast = 1 - slow
    return (1 / (yarn.factor * powers) * (1 - fast) + 1 / powers * fast).astype(dtype)


def _angles(positions, *, width: int, theta: float, dtype):
    """Computes cosines and sines [..., width // 2] of position * theta^(-2i / width)."""
    exponents = jnp.arange(0, width, 2, dtype=dtype) / width
    return _turn(positions, theta**-exponents)


def _turn(positions, frequencies):
    """Computes cosines and sines [..., width // 2] of position * frequency."""
    angles = positions[..., None].astype(frequencies.dtype) * frequencies
    # Otherwise XLA's CPU backend computes them again for every head.
    return jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))
