"""Attention of short sequences by Pallas kernels for TPUs, such as that of a frame's patches.

The logits of a head and a block of queries fit into the core's memory, so the softmax is computed
at once. Heads stay side by side in one axis of N x H entries, as the projections make them, so that
no array is transposed or padded, whatever the width of a head.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vxlpro_jax.ops.attention.interface import KEPT, Backend, Inputs, Kernel, Part
from vxlpro_jax.ops.attention.pallas import product
from vxlpro_jax.sharding import activations

# Limits of what is in the core's memory: a block's logits, and keys and values of all heads.
_MAX_LENGTH = 1024
_MAX_ENTRIES = 2**20
# Queries of all heads that are computed at once: few enough for short programs.
_BLOCK = 256
_VMEM_BYTES = 48 * 2**20


def unsupported_reason(x: Inputs, axes: activations.Axes) -> str:
    """Says why the kernels do not support the inputs of the whole mesh; empty if they do."""
    if x.q_positions is not None or x.q_segments is not None or x.kv_lengths is not None:
        return "every query must see every key"
    if max(x.q.shape[1], x.k.shape[1]) > _MAX_LENGTH:
        return f"sequences must not be longer than {_MAX_LENGTH}"
    if x.k.shape[1] * x.k.shape[2] * x.k.shape[3] > _MAX_ENTRIES:
        return f"the keys of a row must not have more than {_MAX_ENTRIES} entries"
    if x.q.shape[2] != x.k.shape[2]:
        return "there must be as many key heads as query heads"
    if axes.positions:
        return "a device must hold all queries of a sequence, so the axis context must be 1"
    return ""


def kernel(x: Inputs, axes: activations.Axes, *, interpret: bool = False) -> Kernel:
    """Makes the kernel of `attention`; `interpret` runs it where there is no TPU."""
    return Kernel(lambda part, tables: _attend(part.q, part.k, part.v, interpret))


def part_kernel(x: Inputs, axes: activations.Axes, *, interpret: bool = False) -> Kernel:
    """Makes the kernel of `attention_part`, which has no gradient."""

    def attend(part, tables):
        out, log_sum = _forward(part.q, part.k, part.v, interpret=interpret)
        return Part(out, log_sum.swapaxes(1, 2))

    return Kernel(attend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q, k, v, interpret):
    return _forward(q, k, v, interpret=interpret)[0]


def _attend_forward(q, k, v, interpret):
    out, log_sum = checkpoint_name(_forward(q, k, v, interpret=interpret), KEPT)
    return out, (q, k, v, out, log_sum)


def _attend_backward(interpret, saved, grad):
    q, k, v, out, log_sum = saved
    return _backward(q, k, v, out, log_sum, grad, interpret=interpret)


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(q, k, v, *, interpret):
    """Returns the attention [B, T, N, H], and the log-sum-exp of the logits, float32 [B, N, T]."""
    (rows, length, heads, _), keys = q.shape, k.shape[1]
    q_spec, kv_spec, sum_spec = _specs(q, keys=keys)
    merged = [_merged(x) for x in (q, k, v)]
    out, log_sum = pl.pallas_call(
        functools.partial(_forward_kernel, heads=heads),
        grid=(rows, pl.cdiv(length, _BLOCK)),
        in_specs=[q_spec, kv_spec, kv_spec],
        out_specs=[q_spec, sum_spec],
        out_shape=[
            jax.ShapeDtypeStruct(merged[0].shape, q.dtype),
            jax.ShapeDtypeStruct((rows, heads, length), jnp.float32),
        ],
        compiler_params=_params("parallel"),
        name="short_attention_fwd",
        interpret=interpret,
    )(*merged)
    return out.reshape(q.shape), log_sum


def _backward(q, k, v, out, log_sum, grad, *, interpret):
    """Returns the gradients of queries, keys and values."""
    (rows, length, heads, _), keys = q.shape, k.shape[1]
    q_spec, kv_spec, sum_spec = _specs(q, keys=keys)
    merged = [_merged(x) for x in (q, k, v, out, grad)]
    grads = pl.pallas_call(
        functools.partial(_backward_kernel, heads=heads, length=length),
        grid=(rows, pl.cdiv(length, _BLOCK)),
        in_specs=[q_spec, kv_spec, kv_spec, q_spec, q_spec, sum_spec],
        out_specs=[q_spec, kv_spec, kv_spec],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in merged[:3]],
        scratch_shapes=[pltpu.VMEM(merged[1].shape[1:], jnp.float32) for _ in range(2)],
        compiler_params=_params("arbitrary"),
        name="short_attention_bwd",
        interpret=interpret,
    )(*merged, log_sum)
    return tuple(x.reshape(y.shape) for x, y in zip(grads, (q, k, v), strict=True))


def _merged(x: jax.Array) -> jax.Array:
    """Reshapes [B, T, N, H] to [B, T, N * H]."""
    return x.reshape(*x.shape[:2], -1)


def _specs(q, *, keys):
    """Returns the blocks of queries, of keys, and of log-sum-exps, for row `b` and block `i`."""
    heads, width = q.shape[2:]
    return (
        pl.BlockSpec((None, _BLOCK, heads * width), lambda b, i: (b, i, 0)),
        pl.BlockSpec((None, keys, heads * width), lambda b, i: (b, 0, 0)),
        pl.BlockSpec((None, heads, _BLOCK), lambda b, i: (b, 0, i)),
    )


def _params(blocks):
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", blocks), vmem_limit_bytes=_VMEM_BYTES
    )


def _forward_kernel(q_ref, k_ref, v_ref, out_ref, log_sum_ref, *, heads):
    for head, place in _heads(q_ref, heads):
        q, k, v = (ref[:, place] for ref in (q_ref, k_ref, v_ref))
        logits = _logits(q, k)
        largest = logits.max(axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = weights.sum(axis=-1, keepdims=True)
        out = product(weights.astype(v.dtype), v, (1, 0)) / total
        out_ref[:, place] = out.astype(out_ref.dtype)
        log_sum_ref[head, :] = (jnp.log(total) + largest)[:, 0]


def _backward_kernel(
    q_ref,
    k_ref,
    v_ref,
    out_ref,
    grad_ref,
    log_sum_ref,
    dq_ref,
    dk_ref,
    dv_ref,
    dk_sum,
    dv_sum,
    *,
    heads,
    length,
):
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    # The last block may end beyond the last query.
    exists = block * _BLOCK + jax.lax.broadcasted_iota(jnp.int32, (_BLOCK, 1), 0) < length
    for head, place in _heads(q_ref, heads):
        k, v = k_ref[:, place], v_ref[:, place]
        q, out, grad = (jnp.where(exists, ref[:, place], 0) for ref in (q_ref, out_ref, grad_ref))
        weights = jnp.exp(_logits(q, k) - log_sum_ref[head, :][:, None])
        weights = jnp.where(exists, weights, 0)
        dv_sum[:, place] += product(weights.astype(grad.dtype), grad, (0, 0))
        # The mean of the weights' gradients, which the softmax subtracts.
        mean = (out.astype(jnp.float32) * grad.astype(jnp.float32)).sum(axis=-1, keepdims=True)
        dlogits = weights * (product(grad, v, (1, 1)) - mean) * q.shape[-1] ** -0.5
        dlogits = dlogits.astype(q.dtype)
        dq_ref[:, place] = product(dlogits, k, (1, 0)).astype(dq_ref.dtype)
        dk_sum[:, place] += product(dlogits, q, (0, 0))

    @pl.when(block == pl.num_programs(1) - 1)
    def _():
        dk_ref[...] = dk_sum[...].astype(dk_ref.dtype)
        dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)


def _heads(ref, heads):
    """Returns the index of each head, and its columns."""
    width = ref.shape[-1] // heads
    return [(head, pl.ds(head * width, width)) for head in range(heads)]


def _logits(q, k):
    return product(q, k, (1, 1)) * q.shape[-1] ** -0.5


BACKEND = Backend(kernel, part_kernel, unsupported_reason, platform="tpu")
