"""Supervised fine-tuning: the whole model learns to answer questions.

Shapes: `B` rows, `G` groups a row, `T` text slots, `P` places, `C` width of the tower, `N` visual
tokens of a group, `D` decoder width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, IGNORE_LABEL, TrainConfig
from vxlpro_jax.models import microbatched_encoder, video_xl_pro
from vxlpro_jax.ops import segments as seg
from vxlpro_jax.ops.position_skipping import draw_skips
from vxlpro_jax.ops.token_selection import num_kept
from vxlpro_jax.training.batch_features import frame_count, tower_features
from vxlpro_jax.training.flops import Forward, sft_forward
from vxlpro_jax.training.losses import head_cross_entropy
from vxlpro_jax.training.objective import Batch, Loss, Objective
from vxlpro_jax.utils import tree


class Sft(Objective):
    """Questions and answers, with the whole model."""

    reads_compressed = True
    full_size_flags = (
        "--config=configs/stage2.py:3b --config.init_from=CHECKPOINT --config.data.path=FILE.json"
        " --config.data.video_root=DIR"
    )

    def init_params(self, key: jax.Array) -> dict:
        """Draws tower, DTS, projector, selector and decoder."""
        return video_xl_pro.init_params(self.config.model, key=key)

    def loss(self, params: dict, batch: Batch, *, key: jax.Array) -> Loss:
        """Computes `sft_loss` with the run's config."""
        return sft_loss(params, batch, key=key, config=self.config)

    def forward_flops(self, *, groups: Any, text_tokens: Any = 0.0, targets: Any = 0.0) -> Forward:
        """Counts a row that answers a question at the mean keep ratio."""
        return sft_forward(
            self.config.model,
            groups=groups,
            text_tokens=text_tokens,
            keep_ratio=self.config.mean_keep_ratio,
            targets=targets,
        )


OBJECTIVE = Sft


def sft_loss(params: dict, batch: Batch, *, key: jax.Array, config: TrainConfig) -> Loss:
    """Computes the mean cross-entropy over the batch's targets.

    The batch holds `frames`, or `features` [B,G,4,P,C] of the frozen tower, or what a frozen DTS
    made of those, `compressed` [B,G,P,C]. The selector's keep ratio is drawn per sample from
    Uniform(*config.keep_ratio), as the release does at every call, and positions are skipped up to
    `config.pose_max_frames`.
    """
    params = tree.cast(params, config.compute_dtype)
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
        keep_counts=jnp.asarray(num_kept(counts, ratio=ratio)),
        skipped=_skipped(batch, key=jax.random.fold_in(key, 1), config=config),
    )

    visual = _visual_tokens(params, batch, config=config)
    hidden = video_xl_pro.apply_method(config.model, "read", params, visual, text)
    to_logits = functools.partial(video_xl_pro.apply_method, config.model, "logits", params)
    loss = head_cross_entropy(hidden, labels=batch["labels"], to_logits=to_logits)
    metrics = {
        "targets": loss.targets,
        "tokens": (batch["token_segments"] > 0).sum() + counts.sum(),
        "frames": frame_count(batch),
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


def _visual_tokens(params, batch, *, config):
    """[B, G, N, D]."""
    part = {"config": config.model, "microbatch": config.encode_microbatch}
    if "compressed" in batch:
        return microbatched_encoder.project_and_pool(params, batch["compressed"], **part)
    return microbatched_encoder.compress_and_project(
        params, tower_features(params, batch, config=config), **part
    )
