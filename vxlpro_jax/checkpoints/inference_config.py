"""Default inference settings of a model, stored beside its parameters as `inference_config.json`.

Training folders from before this file existed have the same values in `train_config.json`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from etils import epath

from vxlpro_jax.checkpoints.params import read_json
from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.config.schema import InferenceConfig, TrainConfig
from vxlpro_jax.utils.files import write_atomically

FILE = "inference_config.json"
_TRAIN_FILE = "train_config.json"
# The fields of a training config that determine `TrainConfig.inference`.
_TRAIN_FIELDS = ("keep_ratio",)
_DATA_FIELDS = ("max_frames", "frames_per_sample", "fps")


def read_inference_config(root: epath.PathLike) -> InferenceConfig:
    """Reads the inference config of a model folder or training folder; defaults if it has none.

    Raises:
        InputError: the file is not valid JSON, or a field is unknown or out of its range.
    """
    return _find(epath.Path(root)) or InferenceConfig()


def write_inference_config(root: epath.PathLike, config: InferenceConfig) -> None:
    """Writes the inference config of a folder."""
    write_atomically(Path(root) / FILE, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def copy_inference_config(source: epath.PathLike, folder: epath.PathLike) -> None:
    """Writes the inference config of `source` to `folder`; nothing if `source` has none.

    Raises:
        InputError: as in `read_inference_config`.
    """
    if found := _find(epath.Path(source)):
        write_inference_config(folder, found)


def _find(root: epath.Path) -> InferenceConfig | None:
    if (root / FILE).exists():
        return from_mapping(InferenceConfig, read_json(root / FILE), path=FILE)
    if (root / _TRAIN_FILE).exists():
        return _from_training(read_json(root / _TRAIN_FILE))
    return None


def _from_training(written: dict[str, Any]) -> InferenceConfig:
    values = _chosen(written, _TRAIN_FIELDS)
    data = _chosen(written.get("data", {}), _DATA_FIELDS)
    return from_mapping(TrainConfig, values | {"data": data}, path=_TRAIN_FILE).inference


def _chosen(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
