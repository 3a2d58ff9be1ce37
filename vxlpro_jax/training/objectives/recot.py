"""ReCoT: tower and compressor learn to restore hidden tokens of groups of frames.

Shapes: `B` rows, `G` groups a row, `f` frames of a group, `P` places, `C` width of the tower.
"""

from collections.abc import Callable
from typing import Any

import jax
from einops import rearrange

from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.models import recot
from vxlpro_jax.ops.microbatch import microbatched_map
from vxlpro_jax.sharding.params import current_specs
from vxlpro_jax.training.batch_features import frame_count, tower_features
from vxlpro_jax.training.flops import Forward, recot_forward
from vxlpro_jax.training.losses import reconstruction
from vxlpro_jax.training.objective import Batch, Loss, Objective
from vxlpro_jax.utils import tree


class Recot(Objective):
    """Hidden tokens of groups of frames, with tower, compressor and reconstruction decoder."""

    reads_text = False
    is_evaluated = True
    full_size_flags = (
        "--config=configs/stage1.py:3b --config.init_from=CHECKPOINT --config.data.path=FILE.json"
        " --config.data.video_root=DIR --config.data.eval_path=OTHERS.json"
    )

    def init_params(self, key: jax.Array) -> dict:
        """Draws tower, DTS and reconstruction decoder."""
        return recot.init_params(self.config.model, options=self.config.recot, key=key)

    def loss(self, params: dict, batch: Batch, *, key: jax.Array) -> Loss:
        """Computes `recot_loss` with the run's config."""
        return recot_loss(params, batch, key=key, config=self.config)

    def forward_flops(self, *, groups: Any, text_tokens: Any = 0.0, targets: Any = 0.0) -> Forward:
        """Counts groups that are masked, compressed and restored; there is no text."""
        return recot_forward(self.config.model, options=self.config.recot, groups=groups)


OBJECTIVE = Recot


def recot_loss(params: dict, batch: Batch, *, key: jax.Array, config: TrainConfig) -> Loss:
    """Computes the error of restored tokens and of their changes, over groups without padding.

    The batch holds `frames`, or `features` [B,G,4,P,C] of the frozen tower.
    """
    params = tree.cast(params, config.compute_dtype)
    apply: Callable[..., Any] = recot.Recot(config.model, config.recot).apply

    features = rearrange(tower_features(params, batch, config=config), "b g f p c -> (b g) f p c")
    masked = apply({"params": params}, features, key=key, method="mask")
    used = {name: params[name] for name in ("dts", "recot")}
    predicted = microbatched_map(
        lambda used, part: apply({"params": used}, part, method="rebuild"),
        used,
        masked.features,
        microbatch=config.encode_microbatch,
        specs=current_specs(used),
    )
    hidden = jax.lax.stop_gradient(1 - masked.visible)
    valid = rearrange(batch["group_segments"] > 0, "b g -> (b g) 1 1")
    error = reconstruction(predicted, targets=recot.targets(features), hidden=hidden * valid)
    weight = (hidden * valid).sum()
    metrics = {
        "token_error": error.tokens,
        "change_error": error.changes,
        "hidden": weight / (valid.sum() * hidden[0].size),
        "frames": frame_count(batch),
    }
    return Loss(error.tokens + config.recot.difference_weight * error.changes, weight, metrics)
