"""Tests selection: scores, ties, equal scores and counts."""

import functools

import jax
import numpy as np
import pytest
import torch
from torch_reference import selector as reference

from vxlpro_jax.models.selector import Selector
from vxlpro_jax.ops import token_selection

RATIOS = (0.5, 0.83)


@pytest.fixture(scope="module")
def scene(config):
    """One row with two samples, of one and three groups, and a group of padding."""
    rng = np.random.default_rng(0)
    width = config.decoder.width
    counts = token_selection.num_kept(np.array([[144, 3 * 144]]), ratio=np.array([RATIOS]))
    return {
        "windows": rng.standard_normal((1, 5, 154, width)),
        "group_segments": np.array([[1, 2, 2, 2, 0]], np.int32),
        "text": rng.standard_normal((1, 14, width)),
        "text_segments": np.array([[1] * 4 + [0] + [2] * 7 + [0] * 2], np.int32),
        "keep_counts": counts.astype(np.int32),
    }


def select(params, scene):
    width = scene["windows"].shape[-1]
    run = jax.jit(lambda p, scene: Selector(width).apply({"params": p}, **scene))
    return run(params["selector"], scene)


def samples_of(scene):
    """Yields (groups, words) of each sample."""
    return ((slice(0, 1), slice(0, 4)), (slice(1, 4), slice(5, 12)))


@pytest.mark.slow
def test_segments_of_unequal_length(oracle, params, scene):
    ours = select(params, scene)
    for (groups, words), ratio in zip(samples_of(scene), RATIOS, strict=True):
        visual = torch.from_numpy(scene["windows"][0, groups]).flatten(0, 1)
        text = oracle.model.text_mlp(torch.from_numpy(scene["text"][0, words]))
        attended = oracle.model.WindowTimeToTokenAttention(visual)
        scores = reference.normalized_scores(attended, text).detach()
        np.testing.assert_allclose(ours.scores[0, groups].ravel(), scores, rtol=0, atol=1e-9)
        kept = np.flatnonzero(ours.kept[0, groups, 10:])
        np.testing.assert_array_equal(kept, reference.highest(scores, ratio=ratio))
        rotated = reference_rotation(visual).unflatten(0, (-1, 154)).numpy()
        rotated[:, 10:] += scores.reshape(-1, 144, 1).numpy()
        np.testing.assert_allclose(ours.windows[0, groups], rotated, rtol=0, atol=1e-9)
    assert ours.kept[0, :4, :10].all()
    assert not ours.kept[0, 4].any()


def reference_rotation(visual):
    """Computes the full-width rotary embedding with explicit 2x2 rotations."""
    length, width = visual.shape
    rotated = torch.empty_like(visual)
    at = torch.arange(length, dtype=visual.dtype)
    for pair in range(width // 2):
        angle = at * 1e6 ** (-2 * pair / width)
        x0, x1 = visual[:, 2 * pair], visual[:, 2 * pair + 1]
        rotated[:, 2 * pair] = x0 * angle.cos() - x1 * angle.sin()
        rotated[:, 2 * pair + 1] = x0 * angle.sin() + x1 * angle.cos()
    return rotated


def test_a_sample_does_not_depend_on_its_neighbours(params, scene):
    """Scores of the first sample stay equal in every bit when everything else is replaced."""
    rng = np.random.default_rng(1)
    other = {**scene, "windows": scene["windows"].copy(), "text": scene["text"].copy()}
    other["windows"][:, 1:] = 50 * rng.standard_normal(other["windows"][:, 1:].shape)
    other["text"][:, 4:] = 50 * rng.standard_normal(other["text"][:, 4:].shape)
    before, after = select(params, scene), select(params, other)
    np.testing.assert_array_equal(after.kept[:, 0], before.kept[:, 0])
    np.testing.assert_array_equal(after.windows[:, 0], before.windows[:, 0])
    assert (np.asarray(after.kept[:, 1:4]) != np.asarray(before.kept[:, 1:4])).any()


def test_equal_scores_are_zero_and_keep_the_first_tokens(params, scene):
    window = params["selector"]["window"]
    flat = {**window["out"], "kernel": np.zeros_like(window["out"]["kernel"])}
    params = {"selector": {**params["selector"], "window": {**window, "out": flat}}}
    ours = select(params, scene)
    np.testing.assert_array_equal(ours.scores, 0)
    for (groups, _), count in zip(samples_of(scene), scene["keep_counts"][0], strict=True):
        kept = np.flatnonzero(ours.kept[0, groups, 10:])
        np.testing.assert_array_equal(kept, np.arange(count))


def test_equal_scores_have_a_finite_gradient(params, scene):
    def total(out):
        window = {**params["selector"]["window"], "out": out}
        tree = {**params["selector"], "window": window}
        width = scene["windows"].shape[-1]
        return Selector(width).apply({"params": tree}, **scene).windows.sum()

    out = jax.tree.map(np.zeros_like, params["selector"]["window"]["out"])
    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(out)):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("levels", [1, 2, 7, 1000])
def test_ties_go_to_the_lower_index(levels):
    """Compares with a stable sort of each segment, with many equal scores and with few."""
    rng = np.random.default_rng(levels)
    sizes, padding = (40, 5, 200), 11
    segments = np.repeat([1, 2, 3, 0], [*sizes, padding]).astype(np.int32)[None]
    scores = rng.integers(0, levels, segments.shape) / levels
    counts = np.array([[17, 5, 96]], np.int32)
    kept = token_selection.keep_highest(scores, segments=segments, counts=counts)
    expected = np.zeros_like(segments, bool)
    for segment, count in enumerate(counts[0], 1):
        at = np.flatnonzero(segments[0] == segment)
        expected[0, at[np.argsort(-scores[0, at], kind="stable")[:count]]] = True
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    ("tokens", "ratio", "count"),
    [(1440, 0.7, 992), (144, 0.8, 112), (144, 0.99, 128), (144, 0.05, 16), (8, 0.5, 8), (0, 1, 0)],
)
def test_number_of_kept_tokens_equals_the_release(tokens, ratio, count):
    """1440 x 0.7 is 1007 in double precision and 1008 in single."""
    assert token_selection.num_kept(tokens, ratio=ratio) == count


def test_count_follows_exact_arithmetic():
    tokens = 144 * np.arange(1, 400)
    for percent in (70, 77, 85, 90, 99):
        ours = token_selection.num_kept(tokens, ratio=percent / 100)
        theirs = [max(16, int(n * (percent / 100)) // 16 * 16) for n in tokens.tolist()]
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_straight_through_changes_only_the_gradient(params, scene):
    """The gradient is that of the scores plus that of a gate on the tokens, whose value is one."""
    weights = np.random.default_rng(2).standard_normal(scene["windows"].shape)

    @functools.partial(jax.jit, static_argnames="gradient")
    def run(p, gradient):
        return Selector(scene["windows"].shape[-1], gradient).apply({"params": p}, **scene)

    def total(p, gradient):
        return (run(p, gradient).windows * weights).sum()

    def product(p, added):
        selected = run(p, "scores")
        rotated = jax.lax.stop_gradient(selected.windows[:, :, 10:] - selected.scores[..., None])
        return (selected.scores[..., None] * (rotated + added) * weights[:, :, 10:]).sum()

    p = params["selector"]
    jax.tree.map(np.testing.assert_array_equal, run(p, "scores"), run(p, "straight_through"))
    grad = functools.partial(jax.jit(jax.grad(total), static_argnames="gradient"), p)
    expected, gates = jax.jit(jax.grad(product))(p, 1.0), grad("straight_through")
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    jax.tree.map(close, gates, expected)
    by_scores = jax.jit(jax.grad(lambda p: product(p, 1) - product(p, 0)))(p)
    jax.tree.map(close, grad("scores"), by_scores)


@pytest.mark.slow
def test_groups_behind_skipped_ones_are_rotated_as_if_those_were_there(params, scene):
    """The second sample's three groups are the second, third and sixth of six."""
    selector = params["selector"]
    skipped = np.array([[0, 1, 1, 3, 0]], np.int32)
    long = {name: np.asarray(value) for name, value in scene.items()}
    places = [0, 2, 3, 6]
    long["windows"] = np.random.default_rng(3).standard_normal((1, 7, *scene["windows"].shape[2:]))
    long["windows"][:, places] = scene["windows"][:, :4]
    long["group_segments"] = np.array([[1, *[2] * 6]], np.int32)
    short = select({"selector": selector}, {**scene, "skipped": skipped})
    whole = select({"selector": selector}, long)

    def unscored(selected):
        return selected.windows.at[:, :, 10:].add(-selected.scores[..., None])

    np.testing.assert_allclose(
        unscored(short)[:, :4], unscored(whole)[:, places], rtol=0, atol=1e-12
    )
