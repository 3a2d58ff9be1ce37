"""The config in a run's folder: written when the run starts, and kept when it is resumed."""

import dataclasses
import json
from pathlib import Path

from etils import epath

from vxlpro_jax.checkpoints import params
from vxlpro_jax.checkpoints.inference_config import write_inference_config
from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.config.schema import ParamGroup, TrainConfig
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.trained_parts import matches_any
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

_RUN_CONFIG = "train_config.json"
_TOKENIZER = "tokenizer.json"
_FIXED_FIELDS = ("objective", "model", "data", "optim", "seed")


def resume_plan(plan: RunPlan, *, workdir: Path) -> RunPlan:
    """Refuses to continue a run of another kind in its folder.

    Returns:
        The plan, with the parameter groups of the folder. They may have patterns which match
        nothing: these change no parameter but add to the optimizer's state in the checkpoints.

    Raises:
        InputError: the folder holds a run with another config.
    """
    written = workdir / _RUN_CONFIG
    if not written.exists():
        return plan
    old = from_mapping(TrainConfig, params.read_json(written))
    if _has_tokenizer_of(plan.config, workdir=workdir):  # Its folder may have moved.
        old = _with_data(old, tokenizer=plan.config.data.tokenizer)
    was, now = _compared(old, plan=plan), _compared(plan.config, plan=plan)
    fixed = (*_FIXED_FIELDS, *plan.objective.fixed_fields)
    changed = [key for key in fixed if getattr(was, key) != getattr(now, key)]
    if changed:
        raise InputError(
            f"{workdir} holds a run with another {', '.join(changed)}: choose another --workdir,"
            " delete that folder, or start the command that made it."
        )
    return plan.replace(optim=old.optim)


def write_workdir(config: TrainConfig, *, workdir: Path) -> None:
    """Writes the run's config, and what makes the folder a model: sizes, tokenizer, defaults."""
    workdir.mkdir(parents=True, exist_ok=True)
    if config.data.tokenizer:
        params.copy_tokenizer(config.data.tokenizer, workdir)
    write_atomically(workdir / "config.json", json.dumps(config.model.to_release(), indent=2))
    write_atomically(workdir / _RUN_CONFIG, json.dumps(dataclasses.asdict(config), indent=2))
    write_inference_config(workdir, config.inference)


def _compared(config: TrainConfig, *, plan: RunPlan) -> TrainConfig:
    """The config without what may change: where held-out data and features are, unused groups."""
    config = _with_data(config, eval_path="", feature_cache="")
    optim = dataclasses.replace(config.optim, groups=_used(config.optim.groups, plan=plan))
    return dataclasses.replace(config, optim=optim)


def _with_data(config: TrainConfig, **changes: str) -> TrainConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def _has_tokenizer_of(config: TrainConfig, *, workdir: Path) -> bool:
    """Whether the run was made with the same tokenizer, wherever that was read from."""
    kept = workdir / _TOKENIZER
    if not (config.data.tokenizer and kept.exists()):
        return False
    return (epath.Path(config.data.tokenizer) / _TOKENIZER).read_bytes() == kept.read_bytes()


def _used(groups: tuple[ParamGroup, ...], *, plan: RunPlan) -> tuple[ParamGroup, ...]:
    paths = list(tree.flatten(plan.param_shapes))
    return tuple(group for group in groups if matches_any(group, paths))
