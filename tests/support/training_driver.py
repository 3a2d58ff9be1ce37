"""Trains the micro model: `python training_driver.py WORKDIR DATA.json`.

test_train.py runs it in a separate process, which can be killed.
"""

import sys
from pathlib import Path

from helpers import MICRO

from vxlpro_jax.config.schema import DataConfig, OptimConfig, ParamGroup, TrainConfig
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.train import train

STEPS = 8


def run_config(data: Path) -> TrainConfig:
    """Four records, four per batch: every step sees both clips, the picture and the text."""
    return TrainConfig(
        model=MICRO,
        data=DataConfig(
            path=str(data),
            tokenizer=str(TINY_TOKENIZER),
            batch_size=4,
            max_frames=8,
            max_text_tokens=48,
        ),
        optim=OptimConfig(
            lr=1e-2,
            weight_decay=0.1,
            groups=(
                ParamGroup(pattern="^vision/", lr_scale=0.0),
                ParamGroup(pattern="^decoder/embed", lr_scale=0.5),
                ParamGroup(pattern="^decoder/layers/attn/", rule="muon"),
            ),
        ),
        total_steps=STEPS,
        checkpoint_every=2,
        log_every=1,
    )


if __name__ == "__main__":
    train(run_config(Path(sys.argv[2])), workdir=Path(sys.argv[1]))
