"""Attention in blocks with a running softmax, whose memory is linear in length.

It implements FlashAttention-2 (https://arxiv.org/abs/2307.08691) in `lax`, forward and backward,
and runs on every platform.

Shapes: `K` key/value heads, `g` query heads of each, `H` head width; per row, `n` blocks of
`t` queries and `m` blocks of `s` keys.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from vxlpro_jax.ops.attention.interface import KEPT, Backend, Inputs, Part

_BLOCK = 512
_PADDING = -1


def attend(x: Inputs) -> jax.Array:
    """Computes attention [B, T, N, H], one row at a time."""

    def row(one: Inputs):
        return _attend_row(one.q, one.k, one.v, _Mask.of(one))

    return jax.lax.map(row, x.with_segments())


def attend_part(x: Inputs) -> Part:
    """Computes attention and the log-sum-exp of the logits. It has no gradient."""

    def row(one: Inputs):
        out, saved = _forward(one.q, one.k, one.v, _Mask.of(one))
        log_sum = rearrange(saved[-1], "n k g t -> (n t) (k g)")
        return Part(out=out, log_sum=log_sum[: len(one.q)])

    return jax.lax.map(row, x.with_segments())


class _Mask(flax.struct.PyTreeNode):
    """The keys that each query of one row sees, as in `Inputs`.

    Attributes:
        q_positions: int32 [T], or None.
        q_segments: int32 [T], or None.
        kv_segments: int32 [S], or None.
    """

    q_positions: jax.Array | None
    q_segments: jax.Array | None
    kv_segments: jax.Array | None

    @classmethod
    def of(cls, row: Inputs) -> "_Mask":
        """Makes the row's mask. The padding of the last block of keys gets a segment of its own."""
        segments = row.q_segments, row.kv_segments
        if row.q_segments is None and len(row.k) % _block(len(row.k)):
            segments = jnp.zeros(len(row.q), jnp.int32), jnp.zeros(len(row.k), jnp.int32)
        return cls(row.q_positions, *segments)


class _Queries(flax.struct.PyTreeNode):
    """Blocks of queries, or a single one without the first axis.

    Attributes:
        q: [n, K, g, t, H].
        positions: int32 [n, t], or None.
        segments: int32 [n, t], or None.
        d_out: [n, K, g, t, H], gradient of the output, in the backward pass.
        delta: [n, K, g, t], product of the output and its gradient, in the backward pass.
        log_sum: [n, K, g, t], logarithm of the softmax denominator, in the backward pass.
    """

    q: jax.Array
    positions: jax.Array | None
    segments: jax.Array | None
    d_out: jax.Array | None = None
    delta: jax.Array | None = None
    log_sum: jax.Array | None = None


class _Keys(flax.struct.PyTreeNode):
    """Blocks of keys [m, K, s, H] and ints [m, s], or a single one without the first axis."""

    k: jax.Array
    v: jax.Array
    index: jax.Array
    segments: jax.Array | None


@jax.custom_vjp
def _attend_row(q, k, v, mask):
    """Attends within one row: [T, N, H], [S, K, H], [S, K, H] -> [T, N, H]."""
    return _forward(q, k, v, mask)[0]


def _tie(x, mask: _Mask):
    """Makes the mask depend on `x`.

    A scan over layers hoists values that are the same for every layer out of its loop and keeps
    them. Without this, these are the masks of all blocks at once, of memory quadratic in length.
    """
    return jax.lax.optimization_barrier((x, mask))


def _forward(q, k, v, mask):
    q, mask = _tie(q, mask)
    queries, keys = _split_queries(q, mask, heads=k.shape[1]), _split_keys(k, v, mask)
    blocks = jax.lax.map(functools.partial(_attend_block, keys=keys), queries)
    out, log_sum = checkpoint_name(blocks, KEPT)
    return _join(out, length=len(q)), (q, k, v, mask, out, log_sum)


def _attend_block(query: _Queries, *, keys: _Keys):
    """Attends from one block of queries to all keys: [K, g, t, H] and the log-sum [K, g, t]."""
    acc = jnp.promote_types(query.q.dtype, jnp.float32)
    rows = query.q.shape[:-1]

    def visit(carry, key: _Keys):
        largest, total, out = carry
        logits = _logits(query, key)
        higher = jnp.maximum(largest, logits.max(-1))
        weights = jnp.exp(logits - higher[..., None])
        decay = jnp.exp(largest - higher)
        part = jnp.einsum(
            "kgts,ksh->kgth", weights.astype(key.v.dtype), key.v, preferred_element_type=acc
        )
        return higher, total * decay + weights.sum(-1), out * decay[..., None] + part

    def step(carry, key):
        return _if_seen(query, key, visit, lambda carry, _: carry, carry), None

    start = jnp.full(rows, jnp.finfo(acc).min), jnp.zeros(rows, acc), jnp.zeros(query.q.shape, acc)
    (largest, total, out), _ = jax.lax.scan(step, start, keys)
    return (out / total[..., None]).astype(query.q.dtype), largest + jnp.log(total)


def _backward(saved, d_out):
    q, k, v, mask, out, log_sum = saved
    d_out, mask = _tie(d_out, mask)
    acc, heads = jnp.promote_types(q.dtype, jnp.float32), k.shape[1]
    d_out = _split(d_out, heads=heads)
    delta = (d_out.astype(acc) * out.astype(acc)).sum(-1)
    queries = _split_queries(q, mask, heads=heads)
    queries = queries.replace(d_out=d_out, delta=delta, log_sum=log_sum)
    keys = _split_keys(k, v, mask)

    def block(sums, query):
        d_q, parts = _differentiate_block(query, keys=keys)
        return jax.tree.map(jnp.add, sums, parts), d_q

    zeros = jnp.zeros(keys.k.shape, acc), jnp.zeros(keys.v.shape, acc)
    (d_k, d_v), d_q = jax.lax.scan(block, zeros, queries)
    d_k, d_v = (rearrange(x, "m k s h -> (m s) k h")[: len(k)] for x in (d_k, d_v))
    d_q = _join(d_q, length=len(q))
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None


def _differentiate_block(query: _Queries, *, keys: _Keys):
    """Computes the gradient of a block of queries, and its share of those of keys and values."""
    d_out, delta, log_sum = query.d_out, query.delta, query.log_sum
    assert d_out is not None
    assert delta is not None
    assert log_sum is not None
    acc, scale = delta.dtype, query.q.shape[-1] ** -0.5
    dot = functools.partial(jnp.einsum, preferred_element_type=acc)

    def visit(d_q, key: _Keys):
        weights = jnp.exp(_logits(query, key) - log_sum[..., None])
        d_weights = dot("kgth,ksh->kgts", d_out, key.v)
        d_logits = (weights * (d_weights - delta[..., None]) * scale).astype(key.k.dtype)
        d_k = dot("kgts,kgth->ksh", d_logits, query.q)
        d_v = dot("kgts,kgth->ksh", weights.astype(key.v.dtype), d_out)
        return d_q + dot("kgts,ksh->kgth", d_logits, key.k), (d_k, d_v)

    def leave(d_q, key: _Keys):
        return d_q, (jnp.zeros(key.k.shape, acc), jnp.zeros(key.v.shape, acc))

    def step(d_q, key):
        return _if_seen(query, key, visit, leave, d_q)

    return jax.lax.scan(step, jnp.zeros(query.q.shape, acc), keys)


_attend_row.defvjp(_forward, _backward)


def _logits(query: _Queries, key: _Keys) -> jax.Array:
    """Computes logits [K, g, t, s], the lowest number where a query does not see a key."""
    acc = jnp.promote_types(query.q.dtype, jnp.float32)
    logits = jnp.einsum("kgth,ksh->kgts", query.q, key.k, preferred_element_type=acc)
    logits = logits * query.q.shape[-1] ** -0.5
    if query.positions is not None:
        seen = key.index <= query.positions[:, None]
        logits = jnp.where(seen, logits, jnp.finfo(acc).min)
    if query.segments is not None:
        same = key.segments == query.segments[:, None]
        logits = jnp.where(same, logits, jnp.finfo(acc).min)
    return logits


def _if_seen(query: _Queries, key: _Keys, visit, leave, carry):
    """Calls `visit`, or `leave` if the whole block of keys comes after the queries."""
    if query.positions is None:
        return visit(carry, key)
    is_seen = key.index[0] <= query.positions.max()
    return jax.lax.cond(is_seen, visit, leave, carry, key)


def _block(length: int) -> int:
    return min(_BLOCK, length)


def _split_queries(q, mask: _Mask, *, heads) -> _Queries:
    ints = (
        None if x is None else _fill(x, x[0]).reshape(-1, _block(len(x)))
        for x in (mask.q_positions, mask.q_segments)
    )
    return _Queries(_split(q, heads=heads), *ints)


def _split_keys(k, v, mask: _Mask) -> _Keys:
    block = _block(len(k))
    k, v = (rearrange(_fill(x, 0), "(m s) k h -> m k s h", s=block) for x in (k, v))
    index = jnp.arange(len(k) * block).reshape(-1, block)
    segments = mask.kv_segments
    if segments is not None:
        segments = _fill(segments, _PADDING).reshape(-1, block)
    return _Keys(k, v, index, segments)


def _split(x, *, heads):
    """Splits into blocks: [T, N, H] -> [n, K, g, t, H]."""
    return rearrange(_fill(x, 0), "(n t) (k g) h -> n k g t h", t=_block(len(x)), k=heads)


def _join(x, *, length):
    """Inverts `_split`."""
    return rearrange(x, "n k g t h -> (n t) (k g) h")[:length]


def _fill(x, value):
    """Pads the first axis to whole blocks."""
    missing = -len(x) % _block(len(x))
    rest = jnp.broadcast_to(value, (missing, *x.shape[1:])).astype(x.dtype)
    return jnp.concatenate([x, rest]) if missing else x


BACKEND = Backend.of_functions(attend, attend_part)
