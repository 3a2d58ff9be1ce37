"""Attention by the Pallas kernel for TPUs, which skips blocks that a causal mask hides."""

import jax
from einops import rearrange
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.ops.attention.interface import KEPT, Backend, Inputs, Kernel, Part
from vxlpro_jax.sharding import activations

_BLOCKS = (1024, 512, 256, activations.LANES)


def unsupported_reason(x: Inputs, axes: activations.Axes) -> str:
    """Says why the kernel does not support the inputs of the whole mesh; empty if it does."""
    if x.q_positions is not None and not x.is_self_causal:
        return "causal queries must be the same sequence as the keys"
    if x.q.shape[-1] % activations.LANES:
        return f"the width of a head must be a multiple of {activations.LANES}, not {x.q.shape[-1]}"
    length = x.q.shape[1] // _shards(axes.positions)
    if length % activations.LANES:
        return f"a device's queries must be a multiple of {activations.LANES}, not {length}"
    if x.k.shape[1] % activations.LANES:
        return f"keys must be a multiple of {activations.LANES}, not {x.k.shape[1]}"
    return ""


def kernel(x: Inputs, axes: activations.Axes, *, interpret: bool = False) -> Kernel:
    """Makes the kernel of `attention`; `interpret` runs it where there is no TPU."""
    made, specs = _make(x, axes=axes, interpret=interpret)
    return Kernel(_attend, made, specs)


def part_kernel(x: Inputs, axes: activations.Axes, *, interpret: bool = False) -> Kernel:
    """Makes the kernel of `attention_part`, which has no gradient."""
    made, specs = _make(x, axes=axes, interpret=interpret, save_residuals=True)
    return Kernel(_attend_part, made, specs)


def _make(x: Inputs, *, axes, **options):
    (length, heads), keys = x.q.shape[1:3], x.k.shape[1]
    if x.is_self_causal:
        mask = splash_attention.CausalMask((length, keys))
        mask.q_sequence = activations.sequence_order(length)
    else:
        mask = splash_attention.FullMask((length, keys))
    made = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([mask] * heads),
        head_shards=_shards(axes.heads),
        q_seq_shards=_shards(axes.positions),
        residual_checkpoint_name=KEPT,
        block_sizes=_block_sizes(queries=length // _shards(axes.positions), keys=keys),
        **options,
    )
    current = jax.sharding.get_abstract_mesh()
    specs = ()
    if not current.empty:
        specs = made.manual_sharding_spec(NamedSharding(current, P(axes.heads, axes.positions)))
    return made, specs


def _attend(x: Inputs, made) -> jax.Array:
    out = _call(x, made)
    return rearrange(out, "b n t h -> b t n h").astype(x.q.dtype)


def _attend_part(x: Inputs, made) -> Part:
    out, (log_sum,) = _call(x.with_segments(), made)
    return Part(
        out=rearrange(out, "b n t h -> b t n h").astype(x.q.dtype),
        log_sum=rearrange(log_sum, "b n t -> b t n"),
    )


def _call(x: Inputs, made):
    q, k, v = (rearrange(part, "b t n h -> b n t h") for part in (x.q, x.k, x.v))
    q = q * q.shape[-1] ** -0.5
    if x.q_segments is None:
        return jax.vmap(made)(q, k, v)
    assert x.kv_segments is not None
    ids = splash_attention.SegmentIds(x.q_segments, x.kv_segments)
    return jax.vmap(lambda q, k, v, ids: made(q, k, v, segment_ids=ids))(q, k, v, ids)


def _block_sizes(*, queries: int, keys: int) -> splash_attention.BlockSizes:
    q, kv = (next(size for size in _BLOCKS if n % size == 0) for n in (queries, keys))
    return splash_attention.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=min(kv, 512),
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=min(kv, 512),
        block_q_dq=q,
        block_kv_dq=kv,
    )


def _shards(axis: str | None) -> int:
    return activations.axis_size((axis,)) if axis else 1


BACKEND = Backend(kernel, part_kernel, unsupported_reason, platform="tpu")
