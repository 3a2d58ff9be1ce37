"""Compares losses with NumPy, with and without targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.config.schema import IGNORE_LABEL
from vxlpro_jax.training.losses import cross_entropy, head_cross_entropy, reconstruction

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (3, 7, 11)).astype(np.float32)
LABELS = np.where(RNG.random((3, 7)) < 0.4, IGNORE_LABEL, RNG.integers(0, 11, (3, 7)))


def value_and_grad(logits, labels):
    return jax.value_and_grad(lambda x: cross_entropy(x, labels=labels).mean)(logits)


def test_cross_entropy_is_the_mean_over_targets():
    chosen = LABELS != IGNORE_LABEL
    logits = LOGITS.astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probs, np.maximum(LABELS, 0)[..., None], -1)[..., 0][chosen]
    loss = cross_entropy(jnp.asarray(LOGITS), labels=LABELS)
    np.testing.assert_allclose(loss.mean, expected.mean(), rtol=1e-6)
    assert loss.targets == chosen.sum()


def test_ignored_positions_have_neither_value_nor_gradient():
    value, grad = value_and_grad(jnp.asarray(LOGITS), LABELS)
    ignored = LABELS == IGNORE_LABEL
    assert np.all(np.asarray(grad)[ignored] == 0)
    assert np.all(np.abs(np.asarray(grad)[~ignored]).sum(-1) > 0)
    poisoned = np.where(ignored[..., None], np.float32(1e30), LOGITS)
    poisoned_value, poisoned_grad = value_and_grad(jnp.asarray(poisoned), LABELS)
    assert poisoned_value == value
    np.testing.assert_array_equal(poisoned_grad, grad)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 256, 257, 600])
def test_logits_in_parts_give_the_loss_and_gradients_of_the_whole(slots):
    hidden = jnp.asarray(RNG.normal(size=(3, slots, 4)), jnp.float32)
    head = jnp.asarray(RNG.normal(size=(4, 11)), jnp.float32)
    labels = np.where(RNG.random((3, slots)) < 0.4, IGNORE_LABEL, RNG.integers(0, 11, (3, slots)))

    def whole(hidden, head):
        return cross_entropy(hidden @ head, labels=labels)

    def in_parts(hidden, head):
        return head_cross_entropy(hidden, labels=labels, to_logits=lambda x: x @ head)

    assert in_parts(hidden, head).targets == whole(hidden, head).targets
    (loss, grads), (expected, expected_grads) = (
        jax.value_and_grad(lambda *x, form=form: form(*x).mean, argnums=(0, 1))(hidden, head)
        for form in (in_parts, whole)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), grads, expected_grads
    )


def test_cross_entropy_without_targets_is_zero():
    value, grad = value_and_grad(jnp.asarray(LOGITS), np.full((3, 7), IGNORE_LABEL))
    assert value == 0
    assert np.all(np.asarray(grad) == 0)


def test_bfloat16_logits_are_summed_in_float32():
    logits = jnp.zeros((1, 1, 4096), jnp.bfloat16)
    loss = cross_entropy(logits, labels=np.zeros((1, 1), int)).mean
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(4096), rtol=1e-6)


def test_reconstruction_counts_hidden_tokens_and_the_changes_they_take_part_in():
    shape = (2, 4, 6, 3)
    predicted, targets = RNG.normal(size=shape), RNG.normal(size=shape)
    hidden = (RNG.random(shape[:3]) < 0.5).astype(float)
    tokens, changes = [], []
    for group, frame, place in np.ndindex(*shape[:3]):
        if hidden[group, frame, place]:
            tokens.append(np.square(predicted - targets)[group, frame, place].mean())
        if frame and hidden[group, frame - 1 : frame + 1, place].any():
            pair = (predicted - targets)[group, frame - 1 : frame + 1, place]
            changes.append(np.square(pair[1] - pair[0]).mean())
    loss = reconstruction(predicted, targets=targets, hidden=hidden)
    np.testing.assert_allclose(loss.tokens, np.mean(tokens), rtol=1e-5)
    np.testing.assert_allclose(loss.changes, np.mean(changes), rtol=1e-5)


def test_mean_of_the_frames_saves_half_of_the_tokens_and_nothing_of_the_changes():
    targets = RNG.normal(size=(1, 2, 500, 8))
    mean = np.broadcast_to(targets.mean(1, keepdims=True), targets.shape)
    hidden = np.ones(targets.shape[:3])
    exact, average, zero = (
        reconstruction(guess, targets=targets, hidden=hidden)
        for guess in (targets, mean, np.zeros_like(targets))
    )
    assert exact.tokens == exact.changes == 0
    np.testing.assert_allclose(average.tokens / zero.tokens, 0.5, rtol=0.05)
    np.testing.assert_allclose(average.changes, zero.changes, rtol=1e-6)


def test_reconstruction_of_nothing_is_zero():
    zeros = np.zeros((1, 4, 6))
    loss = reconstruction(RNG.normal(size=(1, 4, 6, 3)), targets=zeros[..., None], hidden=zeros)
    assert loss.tokens == loss.changes == 0
