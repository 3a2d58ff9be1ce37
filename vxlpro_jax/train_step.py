"""One optimizer step as a pure function."""

from collections.abc import Callable

import jax
import optax

from vxlpro_jax import optim
from vxlpro_jax.accumulate import gradients
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.flops import step_flops
from vxlpro_jax.tasks import Batch, task_of
from vxlpro_jax.train_state import TrainState

Metrics = dict[str, jax.Array]


def make_train_step(
    config: TrainConfig, *, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step to be jitted: state and batch (see `data.pipeline`) to state and metrics."""
    schedule = optim.schedule(config.optim, total_steps=config.total_steps)
    task = task_of(config)

    def loss_fn(params, batch, key):
        return task.loss(optim.stop_frozen(params, config=config.optim), batch, key=key)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grads, loss, metrics = gradients(
            loss_fn, state.params, batch, key=key, parts=config.accumulate
        )
        frozen = optim.frozen_branches(state.params, config=config.optim)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "lr": schedule(state.step),
            "grad_norm": optax.tree.norm(optim.trained_only(grads, config=config.optim)),
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
