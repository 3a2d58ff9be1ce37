"""A small objective that compiles quickly and has bad gradients at the steps that a test sets.

The objective is the mean colour of all frames.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from helpers import MICRO

from vxlpro_jax.config.schema import DataConfig, DtsConfig, OptimConfig, TrainConfig

# A loss does not know its step, but the step determines its PRNG key.
_OBJECTIVE = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec
from vxlpro_jax.training.flops import Forward
from vxlpro_jax.training.objective import Loss, Objective

BAD = {bad}

class Mean(Objective):
    reads_text = False
    sharding_rules = ((r"colour/mean", PartitionSpec()),)

    def init_params(self, key):
        return {{"colour": {{"mean": jnp.zeros(3)}}}}

    def loss(self, params, batch, *, key):
        run = jax.random.key(self.config.seed)
        data = jax.random.key_data(key)
        bad = jnp.array([(jax.random.key_data(jax.random.fold_in(run, s - 1)) == data).all()
                         for s in BAD]).any()
        mean = params["colour"]["mean"]
        error = batch["frames"].mean((0, 1, 2, 3, 4)) / 255 - mean
        value = jnp.square(error).sum() + jnp.where(bad, {fault}, 0.0) * mean.sum()
        return Loss(value, jnp.ones(()), {{}})

    def forward_flops(self, *, groups, text_tokens=0.0, targets=0.0):
        return Forward(vision=0.0 * groups, dts=0.0)

OBJECTIVE = Mean
"""


def mean_config(
    folder: Path, *, data: Path, bad: Sequence[int] = (), fault: str = "jnp.nan"
) -> TrainConfig:
    """Returns the config of a run of eight steps, each of which is saved.

    Args:
        folder: where the objective's file is written.
        data: data file.
        bad: steps whose gradients are not finite.
        fault: value of these gradients, as a Python expression.
    """
    file = folder / "mean.py"
    file.write_text(_OBJECTIVE.format(bad=tuple(bad), fault=fault))
    return TrainConfig(
        objective=str(file),
        model=dataclasses.replace(MICRO, dts=DtsConfig(grid=4)),
        data=DataConfig(path=str(data), batch_size=2),
        optim=OptimConfig(lr=1e-2, warmup=0.0),
        total_steps=8,
        checkpoint_every=1,
    )
