"""One optimizer step as a pure function."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations
from vxlpro_jax.training import optimizer as optimizer_lib
from vxlpro_jax.training.flops import step_flops
from vxlpro_jax.training.objectives import Batch, Loss, task_of
from vxlpro_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


def make_train_step(
    config: TrainConfig, *, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step to be jitted: state and batch (see `data.pipeline`) to state and metrics."""
    schedule = optimizer_lib.schedule(config.optim, total_steps=config.total_steps)
    task = task_of(config)

    def loss_fn(params, batch, key):
        return task.loss(optimizer_lib.stop_frozen(params, config=config.optim), batch, key=key)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grads, loss, metrics = gradients(
            loss_fn, state.params, batch, key=key, parts=config.grad_accum_steps
        )
        frozen = optimizer_lib.frozen_branches(state.params, config=config.optim)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "lr": schedule(state.step),
            "grad_norm": optax.tree.norm(optimizer_lib.trained_only(grads, config=config.optim)),
            "flops": step_flops(config, batch, frozen=frozen),
            **metrics,
        }
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )
        return state, metrics

    return step


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
    pieces = jax.tree.map(functools.partial(activations.split_microbatches, parts=parts), batch)
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
