"""Attention: every backend equals the definition, written out in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from vxlpro_jax.ops import attention as attention_module
from vxlpro_jax.ops.attention import attention

BACKENDS = ("xla", "chunked", "auto")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def naive(q, k, v, q_positions=None, q_segments=None, kv_segments=None):
    """One query at a time: a loop over rows, queries and heads."""
    out = np.zeros(q.shape)
    repeat = q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = np.ones(k.shape[1], bool)
        if q_positions is not None:
            seen &= np.arange(k.shape[1]) <= q_positions[b, t]
        if q_segments is not None:
            seen &= kv_segments[b] == q_segments[b, t]
        logits = k[b, :, n // repeat] @ q[b, t, n] / np.sqrt(q.shape[-1])
        weights = (
            np.where(seen, np.exp(logits - logits.max()), 0) if seen.any() else np.ones(len(k[b]))
        )
        out[b, t, n] = weights @ v[b, :, n // repeat] / weights.sum()
    return out


def inputs(*, rows=2, queries=37, keys=37, heads=4, kv_heads=2, width=8, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((rows, queries, heads, width))
    k, v = rng.standard_normal((2, rows, keys, kv_heads, width))
    return q, k, v


def segments_of(rows, length, rng):
    """Contiguous segments from 1, zeros behind."""
    out = np.zeros((rows, length), np.int32)
    for row in out:
        cuts = np.sort(rng.choice(np.arange(1, length), 3, replace=False))
        row[: cuts[0]], row[cuts[0] : cuts[1]], row[cuts[1] : cuts[2]] = 1, 2, 3
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_definition_with_grouped_heads(backend, kv_heads):
    q, k, v = inputs(kv_heads=kv_heads, keys=21)
    np.testing.assert_allclose(attention(q, k, v, backend=backend), naive(q, k, v), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_causal_within_segments(backend):
    q, k, v = inputs()
    rng = np.random.default_rng(1)
    at = np.broadcast_to(np.arange(37), (2, 37))
    segments = segments_of(2, 37, rng)
    out = attention(
        q, k, v, q_positions=at, q_segments=segments, kv_segments=segments, backend=backend
    )
    np.testing.assert_allclose(out, naive(q, k, v, at, segments, segments), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_may_stand_anywhere_on_the_key_axis(backend):
    """As in decoding: few queries, each row at its own place in the cache."""
    q, k, v = inputs(queries=3, keys=50)
    positions = np.array([[4, 5, 6], [47, 48, 49]], np.int32)
    out = attention(q, k, v, q_positions=positions, backend=backend)
    np.testing.assert_allclose(out, naive(q, k, v, positions), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_query_that_sees_nothing_gets_the_mean(backend):
    q, k, v = inputs(kv_heads=4)
    q_segments, kv_segments = np.full((2, 37), 2), np.ones((2, 37), int)
    out = attention(q, k, v, q_segments=q_segments, kv_segments=kv_segments, backend=backend)
    expected = np.broadcast_to(v.mean(1, keepdims=True), out.shape)
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 600])
def test_chunks_of_any_length(length):
    q, k, v = inputs(rows=1, queries=length, keys=length, heads=2, kv_heads=1, width=4)
    at = np.arange(length)[None]
    whole = attention(q, k, v, q_positions=at, backend="xla")
    chunked = attention(q, k, v, q_positions=at, backend="chunked")
    np.testing.assert_allclose(chunked, whole, atol=1e-13)


def test_gradients_of_all_backends_agree_with_finite_differences():
    q, k, v = map(jnp.asarray, inputs(rows=3, queries=9, keys=9, width=4))
    at = jnp.broadcast_to(jnp.arange(9), (3, 9))
    rng = np.random.default_rng(2)
    probe, direction = rng.standard_normal(q.shape), rng.standard_normal((3, *k.shape))

    def loss(q, k, v, backend):
        return (attention(q, k, v, q_positions=at, backend=backend) * probe).sum()

    steps = (rng.standard_normal(q.shape), direction[0], direction[1])
    shifted = [
        loss(*(x + sign * 1e-6 * d for x, d in zip((q, k, v), steps, strict=True)), "xla")
        for sign in (1, -1)
    ]
    slope = (shifted[0] - shifted[1]) / 2e-6
    for backend in BACKENDS:
        grads = jax.grad(loss, argnums=(0, 1, 2))(q, k, v, backend)
        along = sum((g * d).sum() for g, d in zip(grads, steps, strict=True))
        np.testing.assert_allclose(along, slope, rtol=1e-7, err_msg=backend)


@pytest.mark.parametrize("limit", [2, 1, 0.5])
def test_auto_takes_rows_then_chunks_and_stays_the_same(monkeypatch, limit):
    """`limit` is how many rows' logits fit: all but one, one, and none."""
    q, k, v = inputs(rows=3, queries=300, keys=30)
    row_bytes = 4 * 300 * 4 * 30
    monkeypatch.setattr(attention_module, "_CPU_LOGITS_BYTES", int(limit * row_bytes))
    largest = largest_intermediate(lambda *x: attention(*x), q, k, v)
    assert largest <= max(limit, 256 / 300) * 300 * 4 * 30
    np.testing.assert_allclose(attention(q, k, v), naive(q, k, v), atol=1e-12)


def largest_intermediate(function, *args):
    """Elements of the largest array with a key axis (30) in the function's program."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            for var in equation.outvars:
                if 30 in var.aval.shape and len(var.aval.shape) == 5:
                    yield var.aval.size
            for inner in jaxprs_in_params(equation.params):
                yield from walk(inner)

    return max(walk(jax.make_jaxpr(function)(*args).jaxpr))


def test_bfloat16_softmax_is_float32():
    """A bfloat16 sum of 4096 equal weights would stop growing at 256."""
    q, k = jnp.zeros((1, 1, 1, 8), jnp.bfloat16), jnp.zeros((1, 4096, 1, 8), jnp.bfloat16)
    v = jnp.full((1, 4096, 1, 8), 3.0, jnp.bfloat16)
    out = attention(q, k, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 3.0, rtol=0.01)


def test_misfit_shapes_are_refused():
    q, k, v = inputs(heads=3, kv_heads=2)
    with pytest.raises(ValueError, match="N a multiple of K"):
        attention(q, k, v)
