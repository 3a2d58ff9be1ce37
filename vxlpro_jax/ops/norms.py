"""Normalisations, computed in at least float32 and returned in the input's type.

Shapes: `C` channels, `...` any leading axes.
"""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.precision import at_least_float32


def layer_norm(
    x: jax.Array, *, scale: jax.Array | float, bias: jax.Array | float, eps: float
) -> jax.Array:
    """Applies LayerNorm over the last axis of x [..., C], with scale and bias [C]."""
    y = at_least_float32(x)
    mean = y.mean(-1, keepdims=True)
    var = jnp.square(y - mean).mean(-1, keepdims=True)
    return ((y - mean) * jax.lax.rsqrt(var + eps) * scale + bias).astype(x.dtype)


def rms_norm(x: jax.Array, *, scale: jax.Array, eps: float) -> jax.Array:
    """Applies RMSNorm over the last axis of x [..., C], with scale [C] after the cast, as Qwen2."""
    y = at_least_float32(x)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return scale * y.astype(x.dtype)


def group_norm(
    x: jax.Array,
    *,
    scale: jax.Array,
    bias: jax.Array,
    axes: tuple[int, ...],
    groups: int = 32,
    eps: float = 1e-6,
) -> jax.Array:
    """Applies GroupNorm with channels last, whose statistics are taken over `axes` too.

    Args:
        x: [..., C], C a multiple of `groups`.
        scale: [C], factor after the normalisation.
        bias: [C], term after the normalisation.
        axes: non-negative axes of `x`, without the last, that belong to one sample.
        groups: number of channel groups; 32 in the release (`sae_utils.py::Normalize`).
        eps: term that is added to the variance; 1e-6 in the release.
    """
    y = at_least_float32(x).reshape(*x.shape[:-1], groups, -1)
    pooled = (*axes, y.ndim - 1)
    mean = y.mean(pooled, keepdims=True)
    var = jnp.square(y - mean).mean(pooled, keepdims=True)
    y = ((y - mean) * jax.lax.rsqrt(var + eps)).reshape(x.shape)
    return (y * scale + bias).astype(x.dtype)
