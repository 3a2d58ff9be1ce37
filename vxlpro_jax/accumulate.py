"""Gradients of a batch whose rows are worked through a part at a time."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations
from vxlpro_jax.tasks import Batch, Loss


class Gradients(NamedTuple):
    """Attributes: `grads`, as the parameters; `value` and `metrics` of the batch's `Loss`."""

    grads: Any
    value: jax.Array
    metrics: dict[str, jax.Array]


def gradients(
    loss_fn: Callable[[Any, Batch, jax.Array], Loss],
    params: Any,
    batch: Batch,
    *,
    key: jax.Array,
    parts: int,
) -> Gradients:
    """What the whole batch gives, with the activations of one part in memory.

    A part counts by its loss's weight, so that targets count alike wherever they stand. (ReCoT's
    changes between frames are weighted by hidden tokens too.) Sums are in float32 or more. Every
    part draws with a key of its own.

    Args:
        loss_fn: parameters, rows of a batch and a key to their loss.
        params: nested dict.
        batch: arrays [B, ...], spread by row; `parts` divides the rows of each device.
        key: PRNG key.
        parts: how many.
    """

    def one(rows, key):
        grads, loss = jax.grad(_with_loss(loss_fn), has_aux=True)(params, rows, key)
        return Gradients(grads, loss.value, loss.metrics), loss.weight

    def weighted(rows, key):
        found, weight = one(rows, key)
        return jax.tree.map(lambda x: x if _counts(x) else _times(x, weight), found), weight

    def add(total, part):
        index, rows = part
        return jax.tree.map(jnp.add, total, weighted(rows, jax.random.fold_in(key, index))), None

    if parts == 1:
        return one(batch, key)[0]
    pieces = jax.tree.map(functools.partial(activations.cut_rows, parts=parts), batch)
    shapes = jax.eval_shape(weighted, jax.tree.map(lambda x: x[0], pieces), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, weight), _ = jax.lax.scan(add, zeros, (jnp.arange(parts), pieces))
    return jax.tree.map(lambda x: x if _counts(x) else x / jnp.maximum(weight, 1), total)


def _with_loss(loss_fn):
    def value_and_loss(params, rows, key):
        loss = loss_fn(params, rows, key)
        return loss.value, loss

    return value_and_loss


def _times(x: jax.Array, weight: jax.Array) -> jax.Array:
    return at_least_float32(x) * weight


def _counts(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)
