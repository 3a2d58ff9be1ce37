"""Cross-entropy against NumPy, with and without targets."""

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.config import IGNORE_LABEL
from vxlpro_jax.losses import cross_entropy

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (3, 7, 11)).astype(np.float32)
LABELS = np.where(RNG.random((3, 7)) < 0.4, IGNORE_LABEL, RNG.integers(0, 11, (3, 7)))


def value_and_grad(logits, labels):
    return jax.value_and_grad(lambda x: cross_entropy(x, labels=labels).mean)(logits)


def test_mean_over_targets():
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


def test_no_target_at_all_is_zero():
    value, grad = value_and_grad(jnp.asarray(LOGITS), np.full((3, 7), IGNORE_LABEL))
    assert value == 0
    assert np.all(np.asarray(grad) == 0)


def test_bfloat16_logits_are_summed_in_float32():
    logits = jnp.zeros((1, 1, 4096), jnp.bfloat16)
    loss = cross_entropy(logits, labels=np.zeros((1, 1), int)).mean
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(4096), rtol=1e-6)
