"""Functions that objectives share: the tower's features of a batch, and its number of frames.

Shapes: `B` rows, `G` groups of four frames a row, `P` places, `C` width of the tower.
"""

import jax

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, TrainConfig
from vxlpro_jax.models import microbatched_encoder
from vxlpro_jax.training.objective import Batch


def tower_features(params: dict, batch: Batch, *, config: TrainConfig) -> jax.Array:
    """Returns features [B, G, 4, P, C]: those in the batch, or else the tower's for its frames."""
    if "features" in batch:
        return batch["features"]
    return microbatched_encoder.group_features(
        params, batch["frames"], config=config.model, microbatch=config.encode_microbatch
    )


def frame_count(batch: Batch) -> jax.Array:
    """Counts the frames in the batch without padding; returns an integer scalar."""
    return batch["group_segments"].astype(bool).sum() * FRAMES_PER_GROUP
