"""What a run can learn: its parameters, and its loss as a pure function.

Shapes: `B` rows, `G` groups a row, `T` text slots, one sample a row.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, IGNORE_LABEL, TrainConfig
from vxlpro_jax.models import microbatched_encoder, recot, video_xl_pro
from vxlpro_jax.ops import segments as seg
from vxlpro_jax.ops.microbatch import microbatched_map
from vxlpro_jax.ops.position_skipping import draw_skips
from vxlpro_jax.ops.token_selection import num_kept
from vxlpro_jax.training.losses import head_cross_entropy, reconstruction
from vxlpro_jax.utils import tree

Batch = dict[str, Any]


class Loss(NamedTuple):
    """Attributes.

    value: to be lowered.
    weight: how many targets or hidden tokens `value` is the mean of; may be zero.
    metrics: scalars by name to be reported with it; integers count, all others are means.
    """

    value: jax.Array
    weight: jax.Array
    metrics: dict[str, jax.Array]


class Task(NamedTuple):
    """Attributes.

    init_params: PRNG key to a fresh parameter tree, float32.
    loss: parameters, batch (see `data.pipeline`) and `key=` to a `Loss`.
    """

    init_params: Callable[[jax.Array], dict]
    loss: Callable[..., Loss]


def task_of(config: TrainConfig) -> Task:
    """The task that the config names."""
    return {"sft": _answer, "recot": _recot}[config.objective](config)


def param_shapes(config: TrainConfig) -> dict:
    """The task's parameters as `jax.ShapeDtypeStruct`, float32, without computing anything."""
    init = task_of(config).init_params
    return jax.eval_shape(lambda: init(jax.random.key(0)))


def _answer(config: TrainConfig) -> Task:
    """Questions and answers, with the whole model."""
    return Task(
        init_params=lambda key: video_xl_pro.init_params(config.model, key=key),
        loss=functools.partial(answer_loss, config=config),
    )


def answer_loss(params: dict, batch: Batch, *, key: jax.Array, config: TrainConfig) -> Loss:
    """Mean loss over the batch's targets.

    The batch holds `frames`, or `features` [B,G,4,P,C] of the frozen tower, or what a frozen DTS
    made of those, `compressed` [B,G,P,C]. The selector's keep ratio is drawn per sample from
    Uniform(*config.keep_ratio), as the release does at every call, and positions are skipped up to
    `config.pose_max_frames`.
    """
    params = tree.cast(params, config.compute_dtype)
    model = video_xl_pro.VideoXLPro(config.model)
    counts = config.model.tokens_per_group * seg.one_hot(
        batch["group_segments"], num_segments=config.data.samples_per_row
    ).sum(1)
    low, high = config.keep_ratio
    ratio = jnp.minimum(jax.random.uniform(key, counts.shape, minval=low, maxval=high), 1)
    text = video_xl_pro.Text(
        tokens=batch["tokens"],
        token_segments=batch["token_segments"],
        stamp_ids=batch["stamp_ids"],
        group_segments=batch["group_segments"],
        keep_counts=num_kept(counts, ratio=ratio),
        skipped=_skipped(batch, key=jax.random.fold_in(key, 1), config=config),
    )

    apply = functools.partial(model.apply, {"params": params})
    hidden = apply(_visual_tokens(params, batch, config=config), text, method="read")
    loss = head_cross_entropy(
        hidden, labels=batch["labels"], to_logits=functools.partial(apply, method="logits")
    )
    metrics = {
        "targets": loss.targets,
        "tokens": (batch["token_segments"] > 0).sum() + counts.sum(),
        "frames": _frames(batch),
    }
    return Loss(loss.mean, (batch["labels"] != IGNORE_LABEL).sum(), metrics)


def _skipped(batch, *, key, config):
    """[B, G], or None."""
    if not config.pose_max_frames:
        return None
    return draw_skips(
        key,
        batch["group_segments"],
        num_segments=config.data.samples_per_row,
        longest=config.pose_max_frames // FRAMES_PER_GROUP,
    )


def _recot(config: TrainConfig) -> Task:
    """Hidden tokens of groups of frames, with tower and compressor."""
    return Task(
        init_params=lambda key: recot.init_params(config.model, options=config.recot, key=key),
        loss=functools.partial(recot_loss, config=config),
    )


def recot_loss(params: dict, batch: Batch, *, key: jax.Array, config: TrainConfig) -> Loss:
    """Error of the restored tokens and of their changes, over the groups that are not padding.

    The batch holds `frames`, or `features` [B,G,4,P,C] of the frozen tower.
    """
    params = tree.cast(params, config.compute_dtype)
    apply = recot.Recot(config.model, config.recot).apply

    features = rearrange(_features(params, batch, config=config), "b g f p c -> (b g) f p c")
    masked = apply({"params": params}, features, key=key, method="mask")
    predicted = microbatched_map(
        lambda used, part: apply({"params": used}, part, method="rebuild"),
        {name: params[name] for name in ("dts", "recot")},
        masked.features,
        at_once=config.encode_microbatch,
    )
    hidden = jax.lax.stop_gradient(1 - masked.visible)
    valid = rearrange(batch["group_segments"] > 0, "b g -> (b g) 1 1")
    error = reconstruction(predicted, targets=recot.targets(features), hidden=hidden * valid)
    weight = (hidden * valid).sum()
    metrics = {
        "token_error": error.tokens,
        "change_error": error.changes,
        "hidden": weight / (valid.sum() * hidden[0].size),
        "frames": _frames(batch),
    }
    return Loss(error.tokens + config.recot.difference_weight * error.changes, weight, metrics)


def _visual_tokens(params, batch, *, config):
    """[B, G, N, D]."""
    part = {"config": config.model, "at_once": config.encode_microbatch}
    if "compressed" in batch:
        return microbatched_encoder.project_and_pool(params, batch["compressed"], **part)
    return microbatched_encoder.compress_and_project(
        params, _features(params, batch, config=config), **part
    )


def _features(params, batch, *, config):
    """Of the tower: [B, G, 4, P, C]."""
    if "features" in batch:
        return batch["features"]
    return microbatched_encoder.group_features(
        params, batch["frames"], config=config.model, at_once=config.encode_microbatch
    )


def _frames(batch):
    return batch["group_segments"].astype(bool).sum() * FRAMES_PER_GROUP
