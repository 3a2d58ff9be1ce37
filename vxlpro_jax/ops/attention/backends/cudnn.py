"""Attention by cuDNN's kernel for NVIDIA GPUs."""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.attention.interface import Backend, Inputs, Part
from vxlpro_jax.sharding import activations
from vxlpro_jax.utils import jax_internals


def unsupported_reason(x: Inputs, axes: activations.Axes) -> str:
    """Says why cuDNN does not support the inputs of the whole mesh; empty if it does."""
    if x.q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"the type must be bfloat16 or float16, not {x.q.dtype}"
    if x.q.shape[-1] % 8 or x.q.shape[-1] > 128:
        return f"the width of a head must be a multiple of 8 up to 128, not {x.q.shape[-1]}"
    if x.q_segments is not None:
        return "segments would need a mask of all logits"
    if x.q_positions is not None and not x.is_self_causal:
        return "causal queries must be the same sequence as the keys"
    if axes.positions:
        return "a device must hold all queries of a sequence, so the axis context must be 1"
    return ""


def _attend(x: Inputs) -> jax.Array:
    return jax.nn.dot_product_attention(
        x.q, x.k, x.v, is_causal=x.is_self_causal, implementation="cudnn"
    )


def _attend_part(x: Inputs) -> Part:
    """Computes `_attend` and the log-sum-exp of the logits; it has no gradient."""
    out, log_sum = jax_internals.cudnn_attention(
        x.q, x.k, x.v, is_causal=x.is_self_causal, kv_lengths=x.kv_lengths
    )
    if x.kv_lengths is None:
        return Part(out, log_sum)
    # The kernel's output for a row without keys is undocumented.
    sees = (x.kv_lengths > 0)[:, None, None]
    lowest = jnp.finfo(log_sum.dtype).min
    return Part(jnp.where(sees[..., None], out, 0), jnp.where(sees, log_sum, lowest))


BACKEND = Backend.of_functions(_attend, _attend_part)._replace(
    unsupported_reason=unsupported_reason, platform="gpu"
)
