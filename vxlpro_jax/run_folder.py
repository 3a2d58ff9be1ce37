"""The folder of a run: its config, and what makes it a model folder too."""

import dataclasses
import json
from pathlib import Path

from vxlpro_jax.checkpoints import params
from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

_RUN_CONFIG = "train_config.json"


def check_workdir(config: TrainConfig, *, workdir: Path) -> None:
    """Refuses to continue a run of another kind.

    Raises:
        InputError: the folder holds a run with another config.
    """
    written = workdir / _RUN_CONFIG
    if not written.exists():
        return
    old, new = (
        dataclasses.replace(run, data=dataclasses.replace(run.data, eval_path="", feature_cache=""))
        for run in (from_mapping(TrainConfig, params.read_json(written)), config)
    )
    own = {"answer": ("keep_ratio", "skip_to_frames"), "recot": ("recot",)}[config.task]
    fixed = ("task", "model", "data", "optim", "seed", *own)
    changed = [key for key in fixed if getattr(old, key) != getattr(new, key)]
    if changed:
        raise InputError(
            f"{workdir} holds a run with another {', '.join(changed)}: choose another --workdir,"
            " delete that folder, or start the command that made it."
        )


def write_workdir(config: TrainConfig, *, workdir: Path) -> None:
    """Writes the run's config, and what makes the folder a checkpoint: sizes and tokenizer."""
    workdir.mkdir(parents=True, exist_ok=True)
    if config.data.tokenizer:
        params.copy_tokenizer(config.data.tokenizer, workdir)
    write_atomically(workdir / "config.json", json.dumps(config.model.to_release(), indent=2))
    write_atomically(workdir / _RUN_CONFIG, json.dumps(dataclasses.asdict(config), indent=2))
