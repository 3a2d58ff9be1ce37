"""Training losses.

Shapes: `B` rows, `T` text slots, `D` decoder width, `V` vocabulary; `G` groups of four frames, `f`
frames of a group, `P` places of the grid, `C` channels.
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

# Text slots whose logits are computed at once; with 151,936 words they take 156 MB per row.
_SLOTS_PER_CHUNK = 256


class CrossEntropy(NamedTuple):
    """Cross-entropy of a batch.

    Attributes:
        mean: mean over the targets.
        targets: number of targets, at least 1.
    """

    mean: jax.Array
    targets: jax.Array


def cross_entropy(logits: jax.Array, *, labels: jax.Array) -> CrossEntropy:
    """Computes the mean negative log-likelihood of labels other than -100, in float32 or more.

    Args:
        logits: prediction of each label (already shifted), [B, T, V].
        labels: target ids, int32 [B, T].
    """
    targets = jnp.maximum((labels != IGNORE_LABEL).sum(), 1)
    return CrossEntropy(mean=_total_loss(logits, labels=labels) / targets, targets=targets)


def head_cross_entropy(
    hidden: jax.Array, *, labels: jax.Array, to_logits: Callable[[jax.Array], jax.Array]
) -> CrossEntropy:
    """Computes `cross_entropy` of `to_logits(hidden)` in chunks of text slots.

    Args:
        hidden: hidden states that predict each label, [B, T, D].
        labels: target ids, int32 [B, T].
        to_logits: function that maps hidden states [B, t, D] to logits [B, t, V].
    """
    slots = min(hidden.shape[1], _SLOTS_PER_CHUNK)
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
    """Errors of restored tokens.

    Attributes:
        tokens: mean squared error of the hidden tokens.
        changes: mean squared error of the differences between neighbouring frames, at places that
            are hidden in at least one of the two.
    """

    tokens: jax.Array
    changes: jax.Array


def reconstruction(
    predicted: jax.Array, *, targets: jax.Array, hidden: jax.Array
) -> Reconstruction:
    """Computes the errors of restored tokens, in float32 or more.

    A compressor that forgets the order of the frames can still restore their mean. This halves the
    error of two different tokens but leaves the whole error of their difference, so both are
    measured.

    Args:
        predicted: restored tokens, [G, f, P, C].
        targets: true tokens, [G, f, P, C].
        hidden: 1 for hidden tokens, 0 for visible ones and padding, [G, f, P].
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
