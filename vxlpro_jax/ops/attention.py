"""One attention function with named backends.

Shapes: `B` rows, `T` queries, `S` keys, `N` query heads, `K` key/value heads (N a multiple of K),
`H` head width.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config import AttentionBackend
from vxlpro_jax.ops.precision import at_least_float32

_XLA_LOGITS_BYTES = 2**30
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
        backend: `xla` holds all B N T S logits at once; `chunked` holds those of 256 queries and
            recomputes them in the backward pass, so memory is linear in length; `auto` takes
            `xla` while its logits stay under 1 GiB.

    Returns:
        [B, T, N, H] in q's type. A query that sees no key gets the mean of the values.
    """
    _check_shapes(q, k, v)
    if backend == "auto":
        logits_bytes = 4 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[1]
        backend = "xla" if logits_bytes <= _XLA_LOGITS_BYTES else "chunked"
    attend = functools.partial(_attend, k=k, v=v, kv_segments=kv_segments)
    if backend == "xla" or q.shape[1] <= _CHUNK:
        return attend(q, q_positions=q_positions, q_segments=q_segments)
    return _map_chunks(attend, q, q_positions=q_positions, q_segments=q_segments)


def _attend(q, *, k, v, q_positions, q_segments, kv_segments):
    heads, kv_heads = q.shape[2], k.shape[2]
    q = rearrange(q * q.shape[-1] ** -0.5, "b t (k g) h -> b k g t h", k=kv_heads)
    acc = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bkgth,bskh->bkgts", q, k, preferred_element_type=acc)
    mask = _mask(k.shape[1], q_positions, q_segments, kv_segments)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(acc).min)
    weights = jax.nn.softmax(at_least_float32(logits), axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, v)
    return rearrange(out, "b t k g h -> b t (k g) h", k=kv_heads, g=heads // kv_heads)


def _mask(num_keys, q_positions, q_segments, kv_segments):
    """bool [B, T, S], or None where every query sees every key."""
    mask = None
    if q_positions is not None:
        mask = jnp.arange(num_keys) <= q_positions[..., None]
    if q_segments is not None:
        same = q_segments[..., None] == kv_segments[:, None, :]
        mask = same if mask is None else mask & same
    return mask


def _map_chunks(attend, q, **per_query):
    """Runs `attend` on 256 queries at a time; the last chunk is padded with copies of query 0."""
    length = q.shape[1]
    num_chunks = -(-length // _CHUNK)

    def split(x):
        padded = jnp.concatenate(
            [x, jnp.repeat(x[:, :1], num_chunks * _CHUNK - length, axis=1)], axis=1
        )
        return rearrange(padded, "b (c t) ... -> c b t ...", t=_CHUNK)

    chunks = jax.tree.map(split, (q, per_query))
    out = jax.lax.map(jax.checkpoint(lambda chunk: attend(chunk[0], **chunk[1])), chunks)
    return rearrange(out, "c b t ... -> b (c t) ...")[:, :length]


def _check_shapes(q, k, v):
    fits = k.shape == v.shape and q.shape[-1] == k.shape[-1] and q.shape[0] == k.shape[0]
    if not fits or q.ndim != 4 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"attention takes q [B, T, N, H] and k, v [B, S, K, H] with N a multiple of K; got "
            f"q {q.shape}, k {k.shape}, v {v.shape}."
        )
