"""One optimizer step as a pure function."""

from collections.abc import Callable

import jax
import optax

from vxlpro_jax import optim
from vxlpro_jax.config import TrainConfig
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
        loss = task.loss(optim.stop_frozen(params, config=config.optim), batch, key=key)
        return loss.value, loss.metrics

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), grads = grad_fn(state.params, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "lr": schedule(state.step),
            "grad_norm": optax.tree.norm(optim.trained_only(grads, config=config.optim)),
            **metrics,
        }
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )
        return state, metrics

    return step
