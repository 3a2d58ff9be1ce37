"""Training losses.

Shapes: `B` rows, `T` text slots, `D` decoder width, `V` vocabulary; `G` groups, `f` frames of a
group, `P` places, `C` channels.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange

from vxlpro_jax.config.schema import IGNORE_LABEL
from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations

# Of each row, so that the logits of 151,936 words take 156 MB.
_SLOTS_AT_ONCE = 256


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
    targets = jnp.maximum((labels != IGNORE_LABEL).sum(), 1)
    return CrossEntropy(mean=_total_loss(logits, labels=labels) / targets, targets=targets)


def head_cross_entropy(
    hidden: jax.Array, *, labels: jax.Array, to_logits: Callable[[jax.Array], jax.Array]
) -> CrossEntropy:
    """`cross_entropy` of `to_logits(hidden)`, of which only some text slots exist at a time.

    Args:
        hidden: [B, T, D], the state that predicts each label.
        labels: int32 [B, T].
        to_logits: [B, t, D] to [B, t, V].
    """
    slots = min(hidden.shape[1], _SLOTS_AT_ONCE)
    missing = -hidden.shape[1] % slots
    hidden = jnp.pad(hidden, ((0, 0), (0, missing), (0, 0)))
    labels = jnp.pad(labels, ((0, 0), (0, missing)), constant_values=IGNORE_LABEL)
    parts = tuple(rearrange(x, "b (n t) ... -> n b t ...", t=slots) for x in (hidden, labels))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def total(part):
        hidden, labels = part
        return _total_loss(to_logits(activations.shard_positions(hidden)), labels=labels)

    targets = jnp.maximum((labels != IGNORE_LABEL).sum(), 1)
    return CrossEntropy(mean=jax.lax.map(total, parts).sum() / targets, targets=targets)


def _total_loss(logits, *, labels):
    is_target = labels != IGNORE_LABEL
    losses = optax.softmax_cross_entropy_with_integer_labels(
        at_least_float32(logits), jnp.where(is_target, labels, 0)
    )
    return jnp.where(is_target, losses, 0).sum()


class Reconstruction(NamedTuple):
    """Attributes.

    tokens: mean squared error of the hidden tokens.
    changes: that of the differences between neighbouring frames of which at least one is hidden.
    """

    tokens: jax.Array
    changes: jax.Array


def reconstruction(
    predicted: jax.Array, *, targets: jax.Array, hidden: jax.Array
) -> Reconstruction:
    """What restoring costs, in float32 or more.

    A compressor that forgets the order of the frames can still restore their mean. That halves the
    error of two unlike tokens but saves nothing of their change, which is why changes count too.

    Args:
        predicted: [G, f, P, C].
        targets: [G, f, P, C].
        hidden: [G, f, P], 1 for tokens that count, 0 for visible ones and padding.
    """
    error = at_least_float32(predicted) - at_least_float32(targets)
    hidden = hidden.astype(error.dtype)
    either = jnp.maximum(hidden[:, 1:], hidden[:, :-1])
    return Reconstruction(
        tokens=_mean_square(error, hidden), changes=_mean_square(jnp.diff(error, axis=1), either)
    )


def _mean_square(error, weights):
    squares = jnp.square(error).mean(axis=-1)
    return (squares * weights).sum() / jnp.maximum(weights.sum(), 1)
