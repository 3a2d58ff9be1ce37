"""One optimizer step as a pure function."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations
from vxlpro_jax.training import optimizer as optimizer_lib
from vxlpro_jax.training.flops import step_flops
from vxlpro_jax.training.objective import Batch, Loss
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.state import TrainState

Metrics = dict[str, jax.Array]

_ROUNDING = 2**31 - 1  # Far from the numbers of microbatches, which are folded into the same key.


def make_train_step(plan: RunPlan) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the step function to jit: state and batch (see `data.loader`) to state and metrics.

    If the loss or a gradient is not finite, the step is skipped: it counts, but parameters and
    optimizer state do not change.
    """
    config, objective = plan.config, plan.objective

    def loss_fn(params, batch, key):
        return objective.loss(
            optimizer_lib.stop_frozen(params, config=config.optim), batch, key=key
        )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grads, loss, metrics = gradients(
            loss_fn, state.params, batch, key=key, parts=config.grad_accum_steps
        )
        norm = optax.tree.norm(optimizer_lib.trained_only(grads, config=config.optim))
        updated = _updated(state, grads, plan=plan, key=jax.random.fold_in(key, _ROUNDING))
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        kept = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), updated, state)
        flops = step_flops(
            objective.forward_flops,
            batch,
            samples_per_row=config.data.samples_per_row,
            frozen=plan.frozen,
        )
        metrics = {
            "loss": loss,
            "lr": plan.schedule(optimizer_lib.updates_done(state.opt_state)),
            "grad_norm": norm,
            "flops": flops,
            **metrics,
        }
        state = dataclasses.replace(kept, step=state.step + 1)
        return state, {**metrics, "skipped_steps": state.skipped_steps}

    return step


def _updated(state: TrainState, grads: Any, *, plan: RunPlan, key: jax.Array) -> TrainState:
    updates, opt_state = plan.optimizer.update(grads, state.opt_state, state.params)
    params = optimizer_lib.apply_updates(state.params, updates, config=plan.config.optim, key=key)
    return dataclasses.replace(state, params=params, opt_state=opt_state)


class Gradients(NamedTuple):
    """Gradients of a batch.

    Attributes:
        grads: gradients in the structure of the parameters.
        value: loss of the batch.
        metrics: scalars of the batch's `Loss`.
    """

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
    """Accumulates gradients over microbatches, so that memory holds activations of one at a time.

    Microbatches are averaged by the weight of their loss, so that every target has the same weight.
    (ReCoT's frame differences are weighted by hidden tokens too.) Sums are in float32 or more. Each
    microbatch has its own PRNG key.

    Args:
        loss_fn: function that maps parameters, rows of a batch and a PRNG key to their loss.
        params: nested dict of parameters.
        batch: arrays [B, ...], sharded by row; `parts` divides the rows of each device.
        key: PRNG key.
        parts: number of microbatches (gradient accumulation steps).
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
