"""Compares guesses from the visible tokens of a position with loops."""

import numpy as np
import pytest

from vxlpro_jax.evals.recot_baselines import impute

RNG = np.random.default_rng(0)
GROUPS, FRAMES, PLACES, WIDTH = 3, 4, 40, 5


@pytest.fixture
def targets():
    return RNG.standard_normal((GROUPS, FRAMES, PLACES, WIDTH)).astype(np.float32)


@pytest.fixture
def visible():
    """Masks with every pattern of four frames, including the empty one."""
    bits = np.arange(GROUPS * PLACES)[:, None] >> np.arange(FRAMES) & 1
    return bits.reshape(GROUPS, PLACES, FRAMES).transpose(0, 2, 1).astype(np.float32)


def each_place(targets, visible, guess):
    """Applies `guess(visible frames, their tokens)` -> [f, C]; without any, the group's mean."""
    expected = np.zeros_like(targets)
    for group in range(GROUPS):
        mean = targets[group][visible[group] == 1].mean(0)
        for place in range(PLACES):
            at = np.flatnonzero(visible[group, :, place])
            tokens = targets[group, at, place]
            expected[group, :, place] = guess(at, tokens) if len(at) else mean
    return expected


def test_copy_mean_takes_the_mean_of_visible_frames(targets, visible):
    expected = each_place(targets, visible, lambda at, tokens: tokens.mean(0))
    actual = impute(targets, visible=visible, rule="copy_mean")
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_interpolate_takes_the_line_between_visible_neighbours(targets, visible):
    def line(at, tokens):
        columns = [np.interp(np.arange(FRAMES), at, column) for column in tokens.T]
        return np.stack(columns, axis=-1)

    actual = impute(targets, visible=visible, rule="interpolate")
    np.testing.assert_allclose(actual, each_place(targets, visible, line), atol=1e-6)


@pytest.mark.parametrize("rule", ["copy_mean", "interpolate"])
def test_hidden_tokens_are_not_read(targets, visible, rule):
    other = np.where(visible[..., None] == 1, targets, 1e6).astype(np.float32)
    np.testing.assert_array_equal(
        impute(targets, visible=visible, rule=rule), impute(other, visible=visible, rule=rule)
    )
