"""Writes the config into a run's folder when the run starts, and compares it on resuming."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from vxlpro_jax.checkpoints import params
from vxlpro_jax.checkpoints.inference_config import write_inference_config
from vxlpro_jax.config import resume
from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.config.resume import Change
from vxlpro_jax.config.schema import ParamGroup, TrainConfig
from vxlpro_jax.data.text import tokenizer_export
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.trained_parts import matches_any
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

_RUN_CONFIG = "train_config.json"
_MODEL_CONFIG = "config.json"
_TOKENIZER = "tokenizer.json"
_LISTED = 3  # Number of changes that a message names.


def resume_plan(plan: RunPlan, *, workdir: Path) -> RunPlan:
    """Compares the config with the one in the run's folder, by the rules of `config.resume`.

    Prints changes that are allowed but affect what is computed.

    Returns:
        The plan, with the parameter groups of the folder. These may include patterns that match
        nothing: they change no parameter but add to the optimizer state in the checkpoints.

    Raises:
        InputError: a field has changed that must not change on resuming.
    """
    written = workdir / _RUN_CONFIG
    if not written.exists():
        return plan
    old = from_mapping(TrainConfig, params.read_json(written))
    if _has_tokenizer_of(plan.config, workdir=workdir):  # The tokenizer's folder may have moved.
        old = _with_data(old, tokenizer=plan.config.data.tokenizer)
    changed = resume.changes(_compared(old, plan=plan), _compared(plan.config, plan=plan))
    refuse_changes(changed, workdir=workdir)
    note_changes(changed, workdir=workdir)
    optim = dataclasses.replace(plan.config.optim, groups=old.optim.groups)
    return RunPlan(dataclasses.replace(plan.config, optim=optim), _release_of(workdir))


def refuse_changes(changed: Sequence[Change], *, workdir: Path) -> None:
    """Refuses changes of fields that must not change on resuming.

    Raises:
        InputError: there is such a change; the message names the field with both values.
    """
    changed = [change for change in changed if change.rule == "fixed"]
    if not changed:
        return
    groups = dict.fromkeys(change.field.partition(".")[0] for change in changed)
    raise InputError(
        f"{workdir} holds a run with another {', '.join(groups)} ({_listed(changed)}): restore its"
        f" values, or {_anew(workdir)}."
    )


def note_changes(changed: Sequence[Change], *, workdir: Path) -> None:
    """Prints changed fields that may change but affect what is computed."""
    changed = [change for change in changed if change.rule == "noted"]
    if changed:
        print(
            f"Changed since the last start: {_listed(changed)}. The run resumes with the new"
            f" values; to keep it as it is, {_anew(workdir)}."
        )


def _listed(changed: Sequence[Change]) -> str:
    more = len(changed) - _LISTED
    return "; ".join(map(str, changed[:_LISTED])) + (f"; and {more} more" if more > 0 else "")


def _anew(workdir: Path) -> str:
    return f"start a new run from it with another --workdir and --config.init_from={workdir}"


def write_workdir(
    config: TrainConfig, *, workdir: Path, release: Mapping[str, Any] | None = None
) -> None:
    """Writes the run's config, and the files of a model folder: sizes, tokenizer and defaults.

    Args:
        config: config of the run.
        workdir: folder of the run.
        release: content of the config.json that the model comes from, whose other keys are kept.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    if config.data.tokenizer:
        params.copy_tokenizer(config.data.tokenizer, workdir)
        params.copy_code(config.data.tokenizer, workdir)
    kept = {key: value for key, value in (release or {}).items() if key != "dtype"}
    written = config.model.to_release(kept) | {"torch_dtype": config.param_dtype}
    write_atomically(workdir / _MODEL_CONFIG, json.dumps(written, indent=2) + "\n")
    tokenizer_export.complete(workdir)
    write_atomically(workdir / _RUN_CONFIG, json.dumps(dataclasses.asdict(config), indent=2))
    write_inference_config(workdir, config.inference)


def _release_of(workdir: Path) -> dict[str, Any]:
    """Returns the run's config.json, which later starts leave as the first one wrote it."""
    file = workdir / _MODEL_CONFIG
    return params.read_json(file) if file.exists() else {}


def _compared(config: TrainConfig, *, plan: RunPlan) -> TrainConfig:
    """Returns the config without parameter groups that match nothing."""
    optim = dataclasses.replace(config.optim, groups=_used(config.optim.groups, plan=plan))
    return dataclasses.replace(config, optim=optim)


def _with_data(config: TrainConfig, **changes: str) -> TrainConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def _has_tokenizer_of(config: TrainConfig, *, workdir: Path) -> bool:
    """Returns whether the run was made with the same tokenizer, from whatever path."""
    kept = workdir / _TOKENIZER
    if not (config.data.tokenizer and kept.exists()):
        return False
    return (epath.Path(config.data.tokenizer) / _TOKENIZER).read_bytes() == kept.read_bytes()


def _used(groups: tuple[ParamGroup, ...], *, plan: RunPlan) -> tuple[ParamGroup, ...]:
    paths = list(tree.flatten(plan.param_shapes))
    return tuple(group for group in groups if matches_any(group, paths))
