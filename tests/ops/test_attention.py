"""Every attention backend equals the definition, implemented in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import add_module
from jax.extend.core import jaxprs_in_params

from vxlpro_jax.models.kv_cache import merge
from vxlpro_jax.ops.attention import dispatch
from vxlpro_jax.ops.attention.backends import cudnn, short, splash, xla
from vxlpro_jax.ops.attention.dispatch import attention, attention_part
from vxlpro_jax.ops.attention.interface import Inputs
from vxlpro_jax.sharding import activations
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.usefixtures("float64")

BACKENDS = ("xla", "chunked", "auto")


def naive(q, k, v, q_positions=None, q_segments=None, kv_segments=None):
    """Computes one query at a time, in a loop over rows, queries and heads."""
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


def self_causal(rows, length):
    return np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))


def segments_of(rows, length, rng):
    """Returns contiguous segments numbered from 1, followed by zeros."""
    out = np.zeros((rows, length), np.int32)
    for row in out:
        cuts = np.sort(rng.choice(np.arange(1, length), 3, replace=False))
        row[: cuts[0]], row[cuts[0] : cuts[1]], row[cuts[1] : cuts[2]] = 1, 2, 3
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_equal_the_definition(backend, kv_heads):
    q, k, v = inputs(kv_heads=kv_heads, keys=21)
    np.testing.assert_allclose(attention(q, k, v, backend=backend), naive(q, k, v), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_causal_attention_within_segments_equals_the_definition(backend):
    q, k, v = inputs()
    rng = np.random.default_rng(1)
    at, segments = self_causal(2, 37), segments_of(2, 37, rng)
    expected = naive(q, k, v, at, segments, segments)
    for places in (at, None):
        out = attention(
            q,
            k,
            v,
            causal=True,
            q_positions=places,
            q_segments=segments,
            kv_segments=segments,
            backend=backend,
        )
        np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_may_have_any_positions_among_the_keys(backend):
    """As in decoding, there are few queries, and each row has its own position in the cache."""
    q, k, v = inputs(queries=3, keys=50)
    positions = np.array([[4, 5, 6], [47, 48, 49]], np.int32)
    out = attention(q, k, v, causal=True, q_positions=positions, backend=backend)
    np.testing.assert_allclose(out, naive(q, k, v, positions), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_without_keys_is_finite_and_does_not_change_others(backend):
    q, k, v = inputs(queries=600, keys=600, kv_heads=4)
    kv_segments = np.ones((2, 600), np.int32)
    q_segments = kv_segments.copy()
    q_segments[:, 7] = 2

    def attend(q, k, v):
        return attention(q, k, v, q_segments=q_segments, kv_segments=kv_segments, backend=backend)

    out, pullback = jax.vjp(attend, q, k, v)
    seeing = q_segments[0] == 1
    np.testing.assert_allclose(out[:, seeing], naive(q, k, v)[:, seeing], atol=1e-12)
    assert np.isfinite(out).all()
    assert all(np.isfinite(g).all() for g in pullback(out))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (511, 511), (512, 512), (1100, 513), (5, 1030)]
)
def test_chunks_of_any_length_forward_and_backward(queries, keys):
    """Attention is causal and rows have unequal segments, so no query sees some blocks of keys."""
    q, k, v = inputs(queries=queries, keys=keys, heads=4, kv_heads=2, width=4)
    rng = np.random.default_rng(3)
    at = np.sort(rng.integers(0, keys, (2, queries), np.int32), axis=1)
    kv_segments = np.sort(rng.integers(1, 4, (2, keys), np.int32), axis=1)
    q_segments = np.take_along_axis(kv_segments, at, axis=1)
    probe = rng.standard_normal(q.shape)

    def run(backend):
        def attend(q, k, v):
            return attention(
                q,
                k,
                v,
                causal=True,
                q_positions=at,
                q_segments=q_segments,
                kv_segments=kv_segments,
                backend=backend,
            )

        out, pullback = jax.vjp(attend, q, k, v)
        return out, *pullback(jnp.asarray(probe))

    for chunked, whole in zip(run("chunked"), run("xla"), strict=True):
        np.testing.assert_allclose(chunked, whole, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("queries", "cut"), [(37, 21), (600, 900), (1, 3)])
def test_parts_merge_to_the_whole(backend, queries, cut):
    """Keys of rows with unequal lengths are in two pieces; one row sees no key of the second."""
    q, k, v = inputs(queries=queries, keys=1100, heads=4, kv_heads=2, width=4)
    lengths = np.array([cut, 1050], np.int32)
    first = attention_part(
        q, k[:, :cut], v[:, :cut], kv_lengths=np.minimum(lengths, cut), backend=backend
    )
    second = attention_part(
        q, k[:, cut:], v[:, cut:], kv_lengths=np.maximum(lengths - cut, 0), backend=backend
    )
    segments = (np.arange(1100) < lengths[:, None]).astype(np.int32)
    whole = attention(q, k, v, q_segments=np.ones((2, queries), np.int32), kv_segments=segments)
    np.testing.assert_allclose(merge(first, second).out, whole, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_causal_part_is_causal(backend):
    q, k, v = inputs(queries=530, keys=530, heads=2, kv_heads=1, width=4)
    part = attention_part(q, k, v, causal=True, backend=backend)
    np.testing.assert_allclose(part.out, attention(q, k, v, causal=True), atol=1e-12)
    at = np.array([[3, 529], [0, 77]], np.int32)
    asked = np.take_along_axis(q, at[..., None, None], axis=1)
    some = attention_part(asked, k, v, causal=True, q_positions=at, backend=backend)
    for name in ("out", "log_sum"):
        whole = np.asarray(getattr(part, name))
        wanted = np.take_along_axis(whole, at.reshape(*at.shape, *[1] * (whole.ndim - 2)), axis=1)
        np.testing.assert_allclose(getattr(some, name), wanted, atol=1e-12)


@pytest.mark.parametrize("is_causal", [False, True])
@jax.enable_x64(False)
def test_splash_parts_interpreted_equal_the_definition(is_causal):
    length, width = 256, 128
    q, k, v = (
        jnp.asarray(x, jnp.float32)
        for x in inputs(queries=length, keys=length, heads=2, kv_heads=1, width=width)
    )
    at = self_causal(2, length)
    lengths = None if is_causal else jnp.array([100, 0])
    given = Inputs(q, k, v, at if is_causal else None, kv_lengths=lengths, is_self_causal=is_causal)
    assert not splash.unsupported_reason(given, activations.Axes())
    kernel = splash.part_kernel(given, activations.Axes(), interpret=True)
    part, wanted = kernel.attend(given, kernel.tables), xla.attend_part(given)
    rows = slice(0, 2 if is_causal else 1)
    np.testing.assert_allclose(part.out[rows], wanted.out[rows], atol=1e-5)
    np.testing.assert_allclose(part.log_sum[rows], wanted.log_sum[rows], atol=1e-4)
    assert np.isfinite(part.out).all()
    assert is_causal or (part.log_sum[1] < -1e30).all()


@pytest.mark.slow
@pytest.mark.parametrize("has_segments", [False, True])
@jax.enable_x64(False)
def test_splash_kernel_interpreted_equals_the_definition(has_segments):
    """The comparison is in float32, in which the kernel computes."""
    length, width = 256, 128
    q, k, v = (
        jnp.asarray(x, jnp.float32)
        for x in inputs(queries=length, keys=length, heads=2, kv_heads=1, width=width)
    )
    at, segments = self_causal(2, length), segments_of(2, length, np.random.default_rng(4))
    segments = segments if has_segments else None
    given = Inputs(q, k, v, at, segments, segments, is_self_causal=True)
    assert not splash.unsupported_reason(given, activations.Axes())

    def attend(q, k, v):
        x = given.replace(q=q, k=k, v=v)
        kernel = splash.kernel(x, activations.Axes(), interpret=True)
        return kernel.attend(x, kernel.tables)

    out, pullback = jax.vjp(attend, q, k, v)
    _, expected_pullback = jax.vjp(
        lambda *x: xla.attend(given.replace(q=x[0], k=x[1], v=x[2])), q, k, v
    )
    np.testing.assert_allclose(out, naive(q, k, v, at, segments, segments), atol=1e-5)
    for grad, wanted in zip(pullback(out), expected_pullback(out), strict=True):
        np.testing.assert_allclose(grad, wanted, atol=1e-4)


@pytest.mark.parametrize(("queries", "keys"), [(729, 729), (256, 130), (40, 600)])
@jax.enable_x64(False)
def test_short_kernels_interpreted_equal_the_definition(queries, keys):
    """The comparison is in float32, in which the kernels compute."""
    q, k, v = (
        jnp.asarray(x, jnp.float32)
        for x in inputs(queries=queries, keys=keys, heads=2, kv_heads=2, width=72)
    )
    given = Inputs(q, k, v)
    assert not short.unsupported_reason(given, activations.Axes())

    def attend(q, k, v):
        x = Inputs(q, k, v)
        kernel = short.kernel(x, activations.Axes(), interpret=True)
        return kernel.attend(x, kernel.tables)

    with jax.default_matmul_precision("highest"):
        out, pullback = jax.vjp(attend, q, k, v)
        wanted, expected_pullback = jax.vjp(lambda *x: xla.attend(Inputs(*x)), q, k, v)
        np.testing.assert_allclose(out, wanted, atol=1e-5)
        for grad, expected in zip(pullback(out), expected_pullback(out), strict=True):
            np.testing.assert_allclose(grad, expected, atol=1e-5)
        part_kernel = short.part_kernel(given, activations.Axes(), interpret=True)
        part = part_kernel.attend(given, part_kernel.tables)
        np.testing.assert_allclose(part.log_sum, xla.attend_part(given).log_sum, atol=1e-5)
    np.testing.assert_array_equal(part.out, out)


@pytest.mark.parametrize(
    ("change", "axes", "message"),
    [
        ({"is_causal": True}, activations.Axes(), "every query must see every key"),
        ({"keys": 1100}, activations.Axes(), "must not be longer than 1024"),
        ({"kv_heads": 1}, activations.Axes(), "as many key heads as query heads"),
        ({"keys": 1000, "width": 640}, activations.Axes(), "not have more than 1048576 entries"),
        ({}, activations.Axes(positions="context"), "the axis context must be 1"),
    ],
)
def test_short_gives_the_reason_for_unsupported_inputs(change, axes, message):
    size = {"keys": 64, "kv_heads": 2, "width": 72, "is_causal": False} | change
    q = jnp.zeros((1, 64, 2, size["width"]), jnp.bfloat16)
    k = jnp.zeros((1, size["keys"], size["kv_heads"], size["width"]), jnp.bfloat16)
    given = Inputs(q, k, k, self_causal(1, 64) if size["is_causal"] else None)
    assert message in short.unsupported_reason(given, axes)


@pytest.mark.parametrize(
    ("change", "axes", "message"),
    [
        ({"is_causal": True}, activations.Axes(), "the same sequence as the keys"),
        ({"keys": 300}, activations.Axes(), "keys must be a multiple of 128, not 300"),
        ({"width": 64}, activations.Axes(), "multiple of 128, not 64"),
        (
            {"length": 200},
            activations.Axes(),
            "a device's queries must be a multiple of 128, not 200",
        ),
    ],
)
def test_splash_gives_the_reason_for_unsupported_inputs(change, axes, message):
    size = {"length": 256, "keys": 256, "width": 128, "is_causal": False} | change
    q = jnp.zeros((1, size["length"], 1, size["width"]), jnp.bfloat16)
    k = jnp.zeros((1, size["keys"], 1, size["width"]), jnp.bfloat16)
    given = Inputs(q, k, k, self_causal(1, size["length"]) if size["is_causal"] else None)
    assert message in splash.unsupported_reason(given, axes)


@pytest.mark.parametrize(
    ("change", "axes", "message"),
    [
        ({"dtype": jnp.float32}, activations.Axes(), "bfloat16 or float16, not float32"),
        ({"width": 136}, activations.Axes(), "up to 128, not 136"),
        (
            {"segments": jnp.zeros((1, 4), jnp.int32)},
            activations.Axes(),
            "mask of all logits",
        ),
        ({"positions": jnp.zeros((1, 4), jnp.int32)}, activations.Axes(), "the same sequence"),
        ({}, activations.Axes(positions="context"), "the axis context must be 1"),
        ({}, activations.Axes(), ""),
    ],
)
def test_cudnn_gives_the_reason_for_unsupported_inputs(change, axes, message):
    size = {"dtype": jnp.bfloat16, "width": 72, "segments": None, "positions": None} | change
    x = jnp.zeros((1, 4, 1, size["width"]), size["dtype"])
    given = Inputs(x, x, x, size["positions"], size["segments"], size["segments"])
    reason = cudnn.unsupported_reason(given, axes)
    assert message in reason if message else not reason


@pytest.mark.parametrize("backend", ["splash", "cudnn"])
def test_a_named_backend_refuses_unsupported_inputs(backend):
    with pytest.raises(ValueError, match=f"Attention backend '{backend}': "):
        attention(*inputs(), backend=backend)


@pytest.mark.slow
def test_gradients_of_all_backends_agree_with_finite_differences():
    q, k, v = map(jnp.asarray, inputs(rows=3, queries=9, keys=9, width=4))
    rng = np.random.default_rng(2)
    probe, direction = rng.standard_normal(q.shape), rng.standard_normal((3, *k.shape))

    def loss(q, k, v, backend):
        return (attention(q, k, v, causal=True, backend=backend) * probe).sum()

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
def test_auto_bounds_the_logits_by_rows_and_then_by_chunks(monkeypatch, limit):
    """`limit` is the number of rows whose logits fit: all but one, one, and none."""
    q, k, v = inputs(rows=3, queries=1024, keys=30)
    row_size = 4 * 1024 * 30
    monkeypatch.setattr(dispatch, "_CPU_LOGITS_BYTES", int(limit * 4 * row_size))
    assert largest_intermediate(lambda *x: attention(*x), q, k, v) <= limit * row_size
    np.testing.assert_allclose(attention(q, k, v), naive(q, k, v), atol=1e-12)


def largest_intermediate(function, *args):
    """Returns the size of the program's largest array with a key axis (30), except the keys."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            for var in equation.outvars:
                if 30 in var.aval.shape and var.aval.shape[-1] != args[1].shape[-1]:
                    yield var.aval.size
            for inner in jaxprs_in_params(equation.params):
                yield from walk(inner)

    return max(walk(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.mark.parametrize("has_segments", [True, False])
def test_chunks_of_scanned_layers_take_memory_linear_in_the_length(has_segments):
    """JAX hoists values that are equal for all layers, such as the chunks' masks, out of a scan."""

    def loss(x, scales):
        ones = jnp.ones(x.shape[:2], jnp.int32) if has_segments else None

        def layer(x, scale):
            each = {"q_segments": ones, "kv_segments": ones}
            return x + attention(scale * x, x, x, causal=True, backend="chunked", **each), None

        return jax.lax.scan(layer, x, scales)[0].sum()

    def temporary(length):
        x = jax.ShapeDtypeStruct((1, length, 2, 8), float)
        compiled = jax.jit(jax.grad(loss)).lower(x, jnp.ones(3)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(8192) < 2.5 * temporary(4096)


def test_bfloat16_softmax_is_float32():
    """A bfloat16 sum of 4096 equal weights would stop growing at 256."""
    q, k = jnp.zeros((1, 1, 1, 8), jnp.bfloat16), jnp.zeros((1, 4096, 1, 8), jnp.bfloat16)
    v = jnp.full((1, 4096, 1, 8), 3.0, jnp.bfloat16)
    out = attention(q, k, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 3.0, rtol=0.01)


def test_shapes_that_do_not_fit_are_refused():
    q, k, v = inputs(heads=3, kv_heads=2)
    with pytest.raises(ValueError, match="N a multiple of K"):
        attention(q, k, v)


def test_positions_without_causal_and_unequal_sequences_are_refused():
    q, k, v = inputs(keys=21)
    with pytest.raises(ValueError, match="q_positions for causal=True only"):
        attention(q, k, v, q_positions=self_causal(2, 37))
    with pytest.raises(ValueError, match="37 causal queries are not the same sequence as the 21"):
        attention(q, k, v, causal=True)


DUMMY_BACKEND = """
from vxlpro_jax.ops.attention.interface import Backend, Part


def attend(x):
    return 0 * x.q + 7


BACKEND = Backend.of_functions(attend, lambda x: Part(out=attend(x), log_sum=x.q[..., 0]))
"""


def test_a_backend_is_added_by_one_file(monkeypatch, tmp_path):
    backends = "vxlpro_jax.ops.attention.backends"
    add_module(monkeypatch, tmp_path, package=backends, name="sevens", source=DUMMY_BACKEND)
    np.testing.assert_array_equal(attention(*inputs(), backend="sevens"), 7)
    np.testing.assert_array_equal(attention_part(*inputs(), backend="sevens").out, 7)


def test_an_unknown_backend_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="Unknown attention backend 'chunk': did you mean 'chunke"):
        attention(*inputs(), backend="chunk")
