"""Normalisations, computed in at least float32 and returned in the input's type.

Shapes: `C` channels, `...` any leading axes.
"""

import functools

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.ops.sums import sum_of_channels, sum_of_vectors
from vxlpro_jax.sharding import activations


def layer_norm(
    x: jax.Array, *, scale: jax.Array | float, bias: jax.Array | float, eps: float
) -> jax.Array:
    """Applies LayerNorm over the last axis of x [..., C], with scale and bias [C]."""
    if activations.platform() == "tpu":
        scale, bias = (jnp.broadcast_to(part, x.shape[-1:]) for part in (scale, bias))
        return layer_norm_by_products(x, scale, bias, eps)
    y = at_least_float32(x)
    mean = y.mean(-1, keepdims=True)
    var = jnp.square(y - mean).mean(-1, keepdims=True)
    return ((y - mean) * jax.lax.rsqrt(var + eps) * scale + bias).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm_by_products(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    """Applies `layer_norm` with every sum, also of the gradients, as a product with ones."""
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(x, scale, bias, eps):
    mean = sum_of_channels(x) / x.shape[-1]
    centred = at_least_float32(x) - mean
    inverse = jax.lax.rsqrt(sum_of_channels(jnp.square(centred)) / x.shape[-1] + eps)
    y = (centred * inverse * scale + bias).astype(x.dtype)
    return y, (x, mean, inverse, scale, bias)


def _layer_norm_backward(eps, saved, grad):
    x, mean, inverse, scale, bias = saved
    normal = (at_least_float32(x) - mean) * inverse
    scaled = at_least_float32(grad) * scale
    own, across = (sum_of_channels(part) / x.shape[-1] for part in (scaled, scaled * normal))
    d_x = inverse * (scaled - own - normal * across)
    d_scale, d_bias = (
        sum_of_vectors(part).astype(of.dtype) for part, of in ((normal * grad, scale), (grad, bias))
    )
    return d_x.astype(x.dtype), d_scale, d_bias


layer_norm_by_products.defvjp(_layer_norm_forward, _layer_norm_backward)


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
