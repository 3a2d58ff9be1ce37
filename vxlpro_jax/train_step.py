"""One optimizer step as a pure function.

Shapes: `B` rows, `G` groups a row, `T` text slots, one sample a row.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from vxlpro_jax import optim
from vxlpro_jax.config import TOKENS_PER_GROUP, TrainConfig
from vxlpro_jax.losses import cross_entropy
from vxlpro_jax.models.video_xl_pro import Text, VideoXLPro
from vxlpro_jax.ops import segments as seg
from vxlpro_jax.ops.selection import keep_count
from vxlpro_jax.train_state import TrainState

Batch = dict[str, Any]
Metrics = dict[str, jax.Array]


def make_train_step(
    config: TrainConfig, *, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step to be jitted: state and batch (see `data.pipeline`) to state and metrics."""
    schedule = optim.schedule(config.optim, total_steps=config.total_steps)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, targets), grads = grad_fn(state.params, batch, key=key, config=config)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "lr": schedule(state.step),
            "grad_norm": optax.global_norm(optim.trained_only(grads, config=config.optim)),
            "targets": targets,
            "tokens": (batch["token_segments"] > 0).sum() + _visual_tokens(batch),
            "frames": batch["group_segments"].astype(bool).sum() * batch["frames"].shape[2],
        }
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )
        return state, metrics

    return step


def loss_fn(
    params: dict, batch: Batch, *, key: jax.Array, config: TrainConfig
) -> tuple[jax.Array, jax.Array]:
    """Mean loss over the batch's targets, and their number.

    The selector's keep ratio is drawn per sample from Uniform(*config.keep_ratio), as the release
    does at every call.
    """
    params = jax.tree.map(lambda x: x.astype(config.compute_dtype), params)
    model = VideoXLPro(config.model)
    counts = _visual_tokens_by_sample(batch["group_segments"])
    low, high = config.keep_ratio
    ratio = jax.random.uniform(key, counts.shape, minval=low, maxval=high)
    text = Text(
        tokens=batch["tokens"],
        token_segments=batch["token_segments"],
        stamp_ids=batch["stamp_ids"],
        group_segments=batch["group_segments"],
        keep_counts=keep_count(counts, ratio=ratio),
    )

    def predict(model):
        return model.logits(model(batch["frames"], text))

    logits = model.apply({"params": params}, method=predict)
    loss = cross_entropy(logits, labels=batch["labels"])
    return loss.mean, loss.targets


def _visual_tokens_by_sample(group_segments):
    """int32 [B, G] -> [B, 1]."""
    return TOKENS_PER_GROUP * seg.one_hot(group_segments, num_segments=1).sum(1)


def _visual_tokens(batch):
    return _visual_tokens_by_sample(batch["group_segments"]).sum()
