"""Tests ReCoT's masks: counts, the hidden tokens, and the gradient of the scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.ops import token_masking
from vxlpro_jax.ops.mask_policies import motion, sgm

pytestmark = pytest.mark.usefixtures("float64")

RNG = np.random.default_rng(0)
CLIPS, FRAMES, TOKENS, WIDTH = 3, 4, 10, 6


@pytest.fixture
def features():
    return RNG.standard_normal((CLIPS, FRAMES, TOKENS, WIDTH))


@pytest.fixture
def ranked():
    return RNG.standard_normal((CLIPS, FRAMES, TOKENS))


def test_semantic_scores_are_two_products(features):
    temporal, spatial = RNG.standard_normal(features.shape), RNG.standard_normal((CLIPS, FRAMES, 6))
    scores = sgm.semantic_scores(features, temporal=temporal, spatial=spatial)
    for clip, frame, token in ((0, 0, 0), (1, 3, 9), (2, 2, 4)):
        x = features[clip, frame, token]
        expected = x @ temporal[clip, frame, token] + x @ spatial[clip, frame]
        np.testing.assert_allclose(scores[clip, frame, token], expected, rtol=1e-12)


def test_neighbour_is_the_frame_before_and_of_the_first_the_one_after(features):
    neighbours = sgm.neighbours(features)
    np.testing.assert_array_equal(neighbours[:, 0], features[:, 1])
    np.testing.assert_array_equal(neighbours[:, 1:], features[:, :-1])


def test_motion_scores_rank_what_moves_above_what_stands(features):
    still = np.repeat(features[:, :1], FRAMES, axis=1)
    still[:, 2:, 3] += 1
    scores = np.array(motion.motion_scores(still))
    np.testing.assert_allclose(scores[:, 2, 3], 1)
    scores[:, 2, 3] = 0
    np.testing.assert_array_equal(scores, 0)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 0.9, 1.0])
def test_exactly_the_lowest_are_hidden(ranked, share):
    visible = np.asarray(token_masking.choose_visible(ranked, ratio=np.full(CLIPS, share)))
    hidden = {0.0: 0, 0.5: 5, 0.75: 7, 0.9: 9, 1.0: 10}[share] * FRAMES
    for clip in range(CLIPS):
        order = np.argsort(ranked[clip].ravel())
        np.testing.assert_array_equal(visible[clip].ravel()[order[:hidden]], 0.0)
        np.testing.assert_array_equal(visible[clip].ravel()[order[hidden:]], 1.0)


def test_every_clip_has_its_own_ratio(ranked):
    visible = token_masking.choose_visible(ranked, ratio=np.array([0.2, 0.5, 0.9]))
    np.testing.assert_array_equal(visible.sum((1, 2)), [32, 20, 4])


def test_tubes_hide_places_throughout():
    scores = jnp.zeros((CLIPS, FRAMES, TOKENS))
    noisy = token_masking.noisy_scores(scores, key=jax.random.key(0), tube=True)
    visible = np.asarray(token_masking.choose_visible(noisy, ratio=np.full(CLIPS, 0.7)))
    np.testing.assert_array_equal(visible, np.repeat(visible[:, :1], FRAMES, axis=1))
    np.testing.assert_array_equal(visible[:, 0].sum(-1), 3)
    assert len({row.tobytes() for row in visible[:, 0]}) > 1


def test_noise_alone_hides_every_token_equally_often():
    scores = jnp.zeros((4000, 2, 5))
    noisy = token_masking.noisy_scores(scores, key=jax.random.key(0))
    visible = token_masking.choose_visible(noisy, ratio=np.full(4000, 0.6))
    # Five standard deviations of a share of 0.4 in 4000 draws.
    np.testing.assert_allclose(visible.mean(0), 0.4, atol=0.04)


def test_high_scores_stay_more_often_and_scale_does_not_matter(ranked):
    scores = jnp.tile(ranked[:1], (2000, 1, 1))
    shares = []
    for scale in (1, 1000):
        noisy = token_masking.noisy_scores(scale * scores + 7, key=jax.random.key(1))
        shares.append(token_masking.choose_visible(noisy, ratio=np.full(2000, 0.5)).mean(0).ravel())
    np.testing.assert_allclose(*shares, atol=1e-2)
    assert np.corrcoef(shares[0], ranked[0].ravel())[0, 1] > 0.9


def test_gradient_pushes_scores_towards_what_the_loss_wants(ranked):
    """If a loss falls with more visible tokens, all scores rise, most near the threshold."""
    ratio = np.full(CLIPS, 0.5)
    grads = jax.grad(lambda x: token_masking.choose_visible(x, ratio=ratio).sum())(
        jnp.asarray(ranked)
    )
    assert np.all(np.asarray(grads) > 0)
    for clip in range(CLIPS):
        ordered = np.sort(ranked[clip].ravel())
        distance = np.abs(ranked[clip] - ordered[20])
        np.testing.assert_array_equal(
            np.argsort(distance.ravel(), stable=True),
            np.argsort(-np.asarray(grads[clip]).ravel(), stable=True),
        )


def test_equal_scores_give_finite_gradients():
    scores = jnp.ones((CLIPS, FRAMES, TOKENS))

    def total(scores):
        noisy = token_masking.noisy_scores(scores, key=jax.random.key(0))
        return token_masking.choose_visible(noisy, ratio=jnp.full(CLIPS, 0.5)).sum()

    assert np.all(np.isfinite(jax.grad(total)(scores)))


def test_still_clips_hide_more(features):
    still = np.repeat(features[:1, :1], FRAMES, axis=1)
    opposite = still * np.array([1, -1, 1, -1])[:, None, None]
    ratio = token_masking.adaptive_ratio(
        np.concatenate([still, opposite, features[:1]]), low=0.5, high=0.9
    )
    np.testing.assert_allclose(ratio[:2], [0.9, 0.5], rtol=1e-9)
    assert 0.5 < float(ratio[2]) < 0.9
