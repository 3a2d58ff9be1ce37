"""Training losses. Shapes: `B` rows, `T` text slots, `V` vocabulary."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vxlpro_jax.config import IGNORE_LABEL
from vxlpro_jax.ops.precision import at_least_float32


class CrossEntropy(NamedTuple):
    """Attributes: `mean` over the targets, and `targets`, how many there are (at least 1)."""

    mean: jax.Array
    targets: jax.Array


def cross_entropy(logits: jax.Array, *, labels: jax.Array) -> CrossEntropy:
    """Mean negative log-likelihood over labels that are not -100, in float32 or more.

    Args:
        logits: [B, T, V], the prediction of each label (already shifted).
        labels: int32 [B, T].
    """
    is_target = labels != IGNORE_LABEL
    losses = optax.softmax_cross_entropy_with_integer_labels(
        at_least_float32(logits), jnp.where(is_target, labels, 0)
    )
    targets = jnp.maximum(is_target.sum(), 1)
    return CrossEntropy(mean=jnp.where(is_target, losses, 0).sum() / targets, targets=targets)
