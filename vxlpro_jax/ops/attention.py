"""One attention function with named backends.

Shapes: `B` rows, `T` queries, `S` keys, `N` query heads, `K` key/value heads (N a multiple of K),
`H` head width.
"""

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config import AttentionBackend

# Logits in memory at once. On a CPU they should stay in its cache.
_CPU_LOGITS_BYTES = 2**26
_LOGITS_BYTES = 2**30
_CHUNK = 256


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    q_positions: jax.Array | None = None,
    q_segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    backend: AttentionBackend = "auto",
) -> jax.Array:
    """Softmax attention with grouped key/value heads, scaled by H^-0.5, softmax in float32 or more.

    Args:
        q: [B, T, N, H].
        k: [B, S, K, H].
        v: [B, S, K, H].
        q_positions: int32 [B, T], the index of each query along the key axis: a query sees the keys
            up to its own index. None means not causal.
        q_segments: int32 [B, T]; with `kv_segments`, a query sees the keys of its own segment.
        kv_segments: int32 [B, S].
        backend: `xla` holds all B N T S logits at once; `chunked` takes 256 queries of one row at a
            time and computes them again in the backward pass, so memory is linear in length;
            `auto` takes `xla` for as many rows at once as keep the logits under a limit, and
            `chunked` where a single row would exceed it.

    Returns:
        [B, T, N, H] in q's type. A query that sees no key gets the mean of the values.
    """
    _check_shapes(q, k, v)
    inputs = _Inputs(q, k, v, q_positions, q_segments, kv_segments)
    row_bytes = 4 * q.shape[1] * q.shape[2] * k.shape[1]
    limit = _CPU_LOGITS_BYTES if jax.default_backend() == "cpu" else _LOGITS_BYTES
    rows = limit // row_bytes
    if backend == "xla" or (backend == "auto" and rows >= len(q)):
        return _attend(inputs)
    if backend == "auto" and rows >= 1:
        return _map_rows(_attend, inputs, rows=rows)
    return _map_rows(_attend_in_chunks, inputs, rows=1)


@flax.struct.dataclass
class _Inputs:
    """The arguments of `attention`, or those of some rows or queries."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    q_positions: jax.Array | None
    q_segments: jax.Array | None
    kv_segments: jax.Array | None


def _attend(x: _Inputs) -> jax.Array:
    # Keys before queries, because XLA's CPU backend vectorises sums over an axis that is not the
    # last; axes in the order of the products' own results, so that no logits are transposed.
    groups = x.q.shape[2] // x.k.shape[2]
    q = rearrange(x.q * x.q.shape[-1] ** -0.5, "b t (k g) h -> b k g t h", g=groups)
    acc = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bskh,bkgth->bksgt", x.k, q, preferred_element_type=acc)
    mask = _mask(x)
    if mask is not None:
        logits = jnp.where(mask[:, None, :, None], logits, jnp.finfo(acc).min)
    largest = jax.lax.stop_gradient(logits.max(axis=2, keepdims=True))
    weights = jnp.exp(logits - largest)
    out = jnp.einsum("bskh,bksgt->bkhgt", x.v, weights.astype(x.v.dtype))
    out = out / weights.sum(axis=2)[:, :, None].astype(out.dtype)
    return rearrange(out, "b k h g t -> b t (k g) h")


def _mask(x: _Inputs) -> jax.Array | None:
    """bool [B, S, T], or None where every query sees every key."""
    mask = None
    if x.q_positions is not None:
        mask = jnp.arange(x.k.shape[1])[:, None] <= x.q_positions[:, None, :]
    if x.q_segments is not None:
        same = x.kv_segments[:, :, None] == x.q_segments[:, None, :]
        mask = same if mask is None else mask & same
    return mask


def _map_rows(attend, inputs: _Inputs, *, rows: int) -> jax.Array:
    """`attend` on some rows at a time; the backward pass computes their logits again."""

    def one(row):
        return attend(jax.tree.map(lambda x: x[None], row))[0]

    return jax.lax.map(jax.checkpoint(one), inputs, batch_size=rows)


def _attend_in_chunks(x: _Inputs) -> jax.Array:
    """256 queries at a time; the last chunk is filled up with copies of the first query."""
    length = x.q.shape[1]
    missing = -length % _CHUNK

    def split(array):
        filled = jnp.concatenate([array, jnp.repeat(array[:, :1], missing, axis=1)], axis=1)
        return rearrange(filled, "b (c t) ... -> c b t ...", t=_CHUNK)

    def one(chunk):
        q, q_positions, q_segments = chunk
        return _attend(x.replace(q=q, q_positions=q_positions, q_segments=q_segments))

    chunks = jax.tree.map(split, (x.q, x.q_positions, x.q_segments))
    out = jax.lax.map(jax.checkpoint(one), chunks)
    return rearrange(out, "c b t ... -> b (c t) ...")[:, :length]


def _check_shapes(q, k, v):
    fits = k.shape == v.shape and q.shape[-1] == k.shape[-1] and q.shape[0] == k.shape[0]
    if not fits or q.ndim != 4 or q.shape[2] % k.shape[2]:
        raise ValueError(
            "attention takes q [B, T, N, H] and k, v [B, S, K, H] with N a multiple of K; got"
            f" q {q.shape}, k {k.shape}, v {v.shape}."
        )
