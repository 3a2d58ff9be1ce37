"""Tests the selection of tokens: counts, ranks, ties, normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.ops.token_selection import keep_highest, normalize, num_kept


@pytest.mark.parametrize(
    ("tokens", "ratio", "kept"),
    [
        (1440, 0.7, 992),  # 1007.999... in double precision; float32 would round up to 1008
        (144, 0.9, 128),
        (144, 1.0, 144),
        (160, 0.05, 16),
        (144, 0.0, 16),
        (9, 0.5, 9),
        (0, 0.9, 0),
    ],
)
def test_num_kept_equals_the_release(tokens, ratio, kept):
    assert num_kept(tokens, ratio=ratio) == kept
    assert np.array_equal(num_kept(np.array([tokens, tokens]), ratio=ratio), [kept, kept])


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_num_kept_of_arrays_is_bounded(convert):
    rng = np.random.default_rng(0)
    tokens, ratio = 144 * rng.integers(0, 99, 500), rng.uniform(0.05, 1, 500)
    kept = np.asarray(num_kept(convert(tokens), ratio=convert(ratio)))
    assert kept.dtype in (np.int32, np.int64)
    assert np.all(kept <= tokens)
    assert np.all(kept >= np.minimum(16, tokens))
    assert np.all(kept % 16 == 0)
    above = kept > 16
    assert np.all((tokens * ratio - kept)[above] < 16 + 1e-3)
    assert np.all((tokens * ratio - kept)[above] > -1e-3)


@pytest.mark.slow
def test_keep_highest_is_a_stable_sort_of_each_segment():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(1, 30, 3)
        segments = np.concatenate([np.repeat([1, 2, 3], sizes), np.zeros(100 - sizes.sum(), int)])
        scores = rng.integers(0, 4, 100).astype(np.float32)  # Few distinct values give many ties.
        counts = np.array([rng.integers(0, size + 1) for size in sizes])
        expected = np.zeros(100, bool)
        for segment, count in enumerate(counts, 1):
            members = np.flatnonzero(segments == segment)
            ranked = sorted(members, key=lambda at: (-scores[at], at))
            expected[ranked[:count]] = True
        kept = keep_highest(
            jnp.asarray(scores)[None],
            segments=jnp.asarray(segments)[None],
            counts=jnp.asarray(counts)[None],
        )
        np.testing.assert_array_equal(kept[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_keep_highest_of_numbers_of_every_size_and_sign(dtype):
    rng = np.random.default_rng(1)
    with jax.enable_x64(dtype == "float64"):
        spread = rng.normal(size=300) * 10.0 ** rng.integers(-30, 30, 300)
        scores = jnp.asarray(np.concatenate([spread, [0.0, -0.0] * 10]), dtype)[None]
        segments, length = jnp.ones(scores.shape, jnp.int32), scores.shape[1]
        order = np.argsort(-np.asarray(scores[0], np.float64), kind="stable")
        for count in (0, 1, 150, 160, length - 1, length):
            kept = keep_highest(scores, segments=segments, counts=jnp.asarray([[count]]))
            np.testing.assert_array_equal(np.flatnonzero(kept[0]), np.sort(order[:count]))


def test_keep_highest_with_neither_tokens_nor_segments():
    kept = keep_highest(
        jnp.ones((2, 4)), segments=jnp.zeros((2, 4), int), counts=jnp.full((2, 1), 3)
    )
    assert not kept.any()


def test_normalize_spans_zero_to_one_in_each_segment():
    rng = np.random.default_rng(0)
    scores = rng.normal(5, 100, (2, 40)).astype(np.float32)
    segments = np.array([[1] * 15 + [2] * 20 + [0] * 5, [1] * 40])
    out = np.asarray(normalize(jnp.asarray(scores), segments=jnp.asarray(segments), num_segments=2))
    for row, segment in ((0, 1), (0, 2), (1, 1)):
        here = segments[row] == segment
        low, high = scores[row, here].min(), scores[row, here].max()
        np.testing.assert_allclose(out[row, here], (scores[row, here] - low) / (high - low), 1e-5)
    assert np.all(out[segments == 0] == 0)


def test_normalize_of_equal_scores_is_zero_and_has_gradient_zero():
    segments = jnp.array([[1, 1, 1, 2, 0]])

    def total(scores):
        return (normalize(scores, segments=segments, num_segments=3) * 7).sum()

    value, grad = jax.value_and_grad(total)(jnp.array([[3.0, 3.0, 3.0, -1.0, 9.0]]))
    assert value == 0
    np.testing.assert_array_equal(grad, np.zeros((1, 5)))
