"""Attention with backends found by name, on one device or sharded over a mesh.

Shapes: `B` rows, `T` queries, `S` keys, `N` query heads, `K` key/value heads (N a multiple of K),
`H` head width.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vxlpro_jax.ops.attention.backends import chunked, xla
from vxlpro_jax.ops.attention.interface import BACKENDS, Backend, Inputs, Kernel, Part
from vxlpro_jax.sharding import activations

# Largest size in bytes of the logits in memory at once. On a CPU they should stay in its cache.
_CPU_LOGITS_BYTES = 2**26
_LOGITS_BYTES = 2**30


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    q_positions: jax.Array | None = None,
    q_segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    partition: P = activations.FRAMES,
    backend: str = "auto",
) -> jax.Array:
    """Computes softmax attention with grouped key/value heads, scaled by H^-0.5.

    The softmax is computed in at least float32.

    Args:
        q: [B, T, N, H] queries.
        k: [B, S, K, H] keys.
        v: [B, S, K, H] values.
        causal: whether a query sees only the keys up to its own position. Without `q_positions`,
            queries and keys are the same sequence, T = S, in the order of
            `activations.sequence_order`.
        q_positions: int32 [B, T], position of each query among the keys, for causal attention.
        q_segments: int32 [B, T], segment of each query, which sees only keys of its segment.
        kv_segments: int32 [B, S], segment of each key.
        partition: mesh axes of rows and queries; each device attends to all keys of its rows.
        backend: name of a module in `ops/attention/backends`, or `auto`. `auto` uses the platform's
            backend if it supports the inputs; otherwise `xla`, with as many rows at once as keep
            the logits below a limit, or `chunked` if a single row would exceed it.

    Returns:
        [B, T, N, H] in q's type. A query that sees no key gets finite but meaningless values.

    Raises:
        InputError: there is no such backend.
        ValueError: the shapes do not fit, or the named backend does not support the inputs.
    """
    _check(q, k, v, causal=causal, q_positions=q_positions)
    inputs = Inputs(q, k, v, q_positions, q_segments, kv_segments)
    if causal and q_positions is None:
        inputs = _in_order(inputs)
    return _run(inputs, partition=partition, backend=backend, form=_WHOLE)


def attention_part(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    q_positions: jax.Array | None = None,
    kv_lengths: jax.Array | None = None,
    partition: P = activations.FRAMES,
    backend: str = "auto",
) -> Part:
    """Computes attention to some of the keys, for merging with the rest. It has no gradient.

    Args:
        q: [B, T, N, H] queries.
        k: [B, S, K, H] keys.
        v: [B, S, K, H] values.
        causal: same as in `attention`, except that sequences are not reordered.
        q_positions: same as in `attention`.
        kv_lengths: int32 [B], number of keys of each row that count; None for all of them.
        partition: same as in `attention`, except that queries are not sharded along `context`.
        backend: same as in `attention`.

    Raises:
        InputError: as in `attention`.
        ValueError: as in `attention`.
    """
    _check(q, k, v, causal=causal, q_positions=q_positions)
    inputs = Inputs(q, k, v, q_positions, kv_lengths=kv_lengths)
    if causal and q_positions is None:
        positions = jnp.broadcast_to(jnp.arange(q.shape[1]), q.shape[:2])
        is_self = not activations.splits_sequence(q.shape[1])
        inputs = inputs.replace(q_positions=positions, is_self_causal=is_self)
    return _run(inputs, partition=P(partition[0]), backend=backend, form=_PART)


def _in_order(x: Inputs) -> Inputs:
    """Returns the inputs with keys in natural order, and the positions of the queries."""
    positions = jnp.asarray(activations.sequence_order(x.q.shape[1]))
    segments = x.kv_segments
    return x.replace(
        k=activations.gather_sequence(x.k),
        v=activations.gather_sequence(x.v),
        q_positions=jnp.broadcast_to(positions, x.q.shape[:2]),
        kv_segments=None if segments is None else activations.gather_sequence(segments),
        is_self_causal=True,
    )


class _Form(NamedTuple):
    """One of the two forms of attention: the whole, or a part that will be merged.

    Attributes:
        kernel_of: a backend's function that makes the kernel.
        xla, rows, chunked: functions of one device's inputs that `auto` chooses from by size;
            `rows` also takes the number of rows whose logits are in memory at once.
        specs: function that maps the sharding of the queries to that of the result.
    """

    kernel_of: Callable[[Backend], Callable[[Inputs, activations.Axes], Kernel]]
    xla: Callable
    rows: Callable
    chunked: Callable
    specs: Callable[[P], Any]


_WHOLE = _Form(
    kernel_of=lambda backend: backend.kernel,
    xla=xla.attend,
    rows=xla.attend_rows,
    chunked=chunked.attend,
    specs=lambda spec: spec,
)
_PART = _Form(
    kernel_of=lambda backend: backend.part_kernel,
    xla=xla.attend_part,
    rows=lambda x, rows: chunked.attend_part(x),
    chunked=chunked.attend_part,
    specs=lambda spec: Part(out=spec, log_sum=spec),
)


def _run(x: Inputs, *, partition: P, backend: str, form: _Form) -> Any:
    if activations.axis_size() == 1:
        kernel = _kernel(x, activations.Axes(), backend=backend, form=form)
        return kernel.attend(x, kernel.tables)
    return _over_mesh(x, partition=partition, backend=backend, form=form)


def _over_mesh(x: Inputs, *, partition, backend, form: _Form) -> Any:
    """Runs a kernel on each device, for the device's rows, queries and heads and all their keys."""
    (rows, length, heads, _), kv_heads = x.q.shape, x.k.shape[2]
    axes = activations.attention_axes(
        partition, rows=rows, length=length, heads=heads, kv_heads=kv_heads
    )
    repeats = activations.axis_size((axes.heads,)) // kv_heads if axes.heads else 1
    if repeats > 1:
        x = x.replace(k=jnp.repeat(x.k, repeats, axis=2), v=jnp.repeat(x.v, repeats, axis=2))
    kernel = _kernel(x, axes, backend=backend, form=form)
    queries, keys = P(axes.rows, axes.positions), P(axes.rows)
    q_spec, kv_spec = P(*queries, axes.heads), P(*keys, None, axes.heads)
    specs = x.replace(
        q=q_spec,
        k=kv_spec,
        v=kv_spec,
        q_positions=_spec_if_given(x.q_positions, queries),
        q_segments=_spec_if_given(x.q_segments, queries),
        kv_segments=_spec_if_given(x.kv_segments, keys),
        kv_lengths=_spec_if_given(x.kv_lengths, keys),
    )
    on_device = jax.shard_map(
        kernel.attend,
        in_specs=(specs, kernel.specs),
        out_specs=form.specs(q_spec),
        axis_names=activations.free_axes(),
        check_vma=False,
    )
    return on_device(x, kernel.tables)


def _spec_if_given(x: jax.Array | None, spec: P) -> P | None:
    return None if x is None else spec


def _kernel(x: Inputs, axes: activations.Axes, *, backend: str, form: _Form) -> Kernel:
    """Makes the kernel for inputs of the whole mesh.

    Raises:
        InputError: there is no such backend.
        ValueError: the backend cannot compute this attention.
    """
    if backend != "auto":
        found = BACKENDS.find(backend)
        if reason := found.unsupported_reason(x, axes):
            raise ValueError(f"Attention backend {backend!r}: {reason}.")
        return form.kernel_of(found)(x, axes)
    for found in _preferred(activations.platform()):
        if not found.unsupported_reason(x, axes):
            return form.kernel_of(found)(x, axes)
    return Kernel(lambda part, tables: _attend_by_size(part, form=form))


def _preferred(platform: str) -> Iterator[Backend]:
    """Yields the backends that `auto` prefers. A CPU has none, so that none is imported."""
    if platform != "cpu":
        yield from (x for x in map(BACKENDS.find, BACKENDS.names()) if x.platform == platform)


def _attend_by_size(x: Inputs, *, form: _Form) -> Any:
    """Computes attention with as many logits in memory at once as the platform allows."""
    row_bytes = 4 * x.q.shape[1] * x.q.shape[2] * x.k.shape[1]
    limit = _CPU_LOGITS_BYTES if activations.platform() == "cpu" else _LOGITS_BYTES
    rows = limit // row_bytes
    if rows >= len(x.q):
        return form.xla(x)
    return form.rows(x, rows=rows) if rows else form.chunked(x)


def _check(q, k, v, *, causal, q_positions):
    fits = k.shape == v.shape and q.shape[-1] == k.shape[-1] and q.shape[0] == k.shape[0]
    if not fits or q.ndim != 4 or q.shape[2] % k.shape[2]:
        raise ValueError(
            "attention needs q [B, T, N, H] and k, v [B, S, K, H] with N a multiple of K; got"
            f" q {q.shape}, k {k.shape}, v {v.shape}."
        )
    if q_positions is not None and not causal:
        raise ValueError("attention uses q_positions for causal=True only.")
    if causal and q_positions is None and q.shape[1] != k.shape[1]:
        raise ValueError(
            f"attention needs q_positions, because {q.shape[1]} causal queries are not the same"
            f" sequence as the {k.shape[1]} keys."
        )
