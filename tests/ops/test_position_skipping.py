"""Tests position skipping: the drawn skips, and the resulting positions of the decoder."""

import jax
import numpy as np
import pytest

from vxlpro_jax.ops.position_skipping import draw_skips

LONGEST = 1000
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def draws():
    """Skips of 1000 keys: [1000, 3, 6]."""
    keys = jax.random.split(jax.random.key(0), 1000)
    draw = jax.vmap(lambda key: draw_skips(key, SEGMENTS, num_segments=2, longest=LONGEST))
    return np.asarray(draw(keys))


def samples(draws):
    for row, segments in enumerate(SEGMENTS):
        for segment in range(1, segments.max() + 1):
            yield draws[:, row, segments == segment]


@pytest.mark.slow
def test_groups_stay_in_order_and_within_the_longest_video(draws):
    for sample in samples(draws):
        assert (np.diff(sample) >= 0).all()
        assert sample.min() >= 0
        assert sample.max() <= LONGEST - sample.shape[1]
    assert not draws[:, SEGMENTS == 0].any()


def test_half_of_the_samples_skip_nothing_and_other_lengths_are_log_uniform(draws):
    """The last group is at the end of the longer video, so it shows the length of that."""
    for sample in samples(draws):
        own = sample.shape[1]
        if own == 1:  # A single group stays at the start.
            assert not sample.any()
            continue
        length = np.log(sample[:, -1] + own + 0.5)
        shares = np.histogram(length, np.linspace(np.log(own), np.log(LONGEST + 1), 5))[0] / 1000
        np.testing.assert_allclose(shares, (0.5 + 0.125, 0.125, 0.125, 0.125), atol=0.05)


def test_the_first_group_is_first_and_others_lie_anywhere(draws):
    """The middle three of five groups are uniformly distributed over the skipped range."""
    sample = list(samples(draws))[3]
    sample = sample[sample[:, -1] > 100]
    places = sample / sample[:, -1:]
    np.testing.assert_allclose(places.mean(0), (0, 1 / 4, 1 / 2, 3 / 4, 1), atol=0.04)
    assert not places[:, 0].any()


def test_samples_of_a_row_are_drawn_independently(draws):
    one, two = draws[:, 0, 2], draws[:, 0, 4]
    assert abs(np.corrcoef(np.log1p(one), np.log1p(two))[0, 1]) < 0.1


@pytest.mark.slow
def test_a_video_of_the_longest_length_skips_nothing():
    segments = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.int32)
    skipped = draw_skips(jax.random.key(1), segments, num_segments=1, longest=2)
    assert not skipped.any()
