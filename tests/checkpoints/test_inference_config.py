"""Default inference settings are written beside the parameters and read back."""

import dataclasses
import json

import pytest

from vxlpro_jax.checkpoints.inference_config import (
    FILE,
    copy_inference_config,
    read_inference_config,
    write_inference_config,
)
from vxlpro_jax.config.schema import DataConfig, InferenceConfig, TrainConfig
from vxlpro_jax.utils.errors import InputError

OTHERS = InferenceConfig(max_frames=12, fps=0.5, keep_ratio=0.25)


def test_a_folder_without_the_file_has_the_defaults(tmp_path):
    assert read_inference_config(tmp_path) == InferenceConfig(
        max_frames=128, fps=0.0, keep_ratio=0.9
    )


def test_written_values_are_read_and_copied(tmp_path):
    write_inference_config(tmp_path, OTHERS)
    (tmp_path / "copy").mkdir()
    copy_inference_config(tmp_path, tmp_path / "copy")
    assert read_inference_config(tmp_path) == read_inference_config(tmp_path / "copy") == OTHERS


def test_nothing_is_copied_from_a_folder_that_has_none(tmp_path):
    (tmp_path / "copy").mkdir()
    copy_inference_config(tmp_path, tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())


def test_a_run_without_the_file_is_asked_as_its_training_config_says(tmp_path):
    """This also holds with unknown fields of other versions."""
    run = TrainConfig(keep_ratio=(1.0, 1.0), data=DataConfig(max_frames=8, fps=2.0))
    values = dataclasses.asdict(run) | {"skip_to_frames": 0}
    values["data"]["workdir_cache"] = "~/cache"
    (tmp_path / "train_config.json").write_text(json.dumps(values))
    expected = InferenceConfig(max_frames=8, fps=2.0, keep_ratio=1.0)
    assert read_inference_config(tmp_path) == expected
    (tmp_path / "model").mkdir()
    copy_inference_config(tmp_path, tmp_path / "model")
    assert read_inference_config(tmp_path / "model") == expected


@pytest.mark.parametrize(
    ("keep_ratio", "frames_per_sample", "expected"),
    [
        ((1.0, 1.0), 0, InferenceConfig(max_frames=64, keep_ratio=1.0)),
        ((0.5, 0.7), 16, InferenceConfig(max_frames=16, keep_ratio=0.6)),
        ((0.5, 1.5), 16, InferenceConfig(max_frames=16, keep_ratio=0.875)),
        ((2.0, 3.0), 16, InferenceConfig(max_frames=16, keep_ratio=1.0)),
    ],
)
def test_a_trained_model_is_asked_with_the_mean_of_its_training(
    keep_ratio, frames_per_sample, expected
):
    data = DataConfig(max_frames=64, frames_per_sample=frames_per_sample)
    assert TrainConfig(keep_ratio=keep_ratio, data=data).inference == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"keep_ration": 1.0}', "did you mean 'keep_ratio'"),
        ('{"keep_ratio": 1.5}', "keep_ratio must be above 0 and at most 1"),
        ('{"keep_ratio": 0.0}', "keep_ratio must be above 0 and at most 1"),
        ('{"max_frames": 0}', "max_frames must be at least 1"),
        ('{"fps": -1.0}', "fps must be 0"),
        ('{"fps": "1"}', f"{FILE}.fps is '1'"),
        ("{", "is not valid JSON"),
    ],
)
def test_damaged_files_are_refused(tmp_path, text, said):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError) as raised:
        read_inference_config(tmp_path)
    assert said in str(raised.value)
