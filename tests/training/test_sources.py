"""Tests the settings that a run takes from `init_from`, and messages about other sizes."""

import dataclasses
import json

import pytest
from helpers import MICRO, write_model

from checkpoints_convert import to_torch
from vxlpro_jax.checkpoints.params import read_json
from vxlpro_jax.config.schema import PRESETS, TrainConfig, YarnConfig
from vxlpro_jax.training.run_folder import resume_plan, write_workdir
from vxlpro_jax.training.setup import resolve
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

# Embedded clips and the tiny tokenizer need the tiny vocabulary.
SMALL = dataclasses.replace(
    MICRO, decoder=dataclasses.replace(MICRO.decoder, vocab_size=512, max_positions=4096)
)
KEYS = {
    "image_grid_pinpoints": [[56, 112]],
    "mm_use_im_patch_token": True,
    "eos_token_id": 7,
    "an_unknown_key": [1],
}


@pytest.fixture
def source(tmp_path):
    return write_model(tmp_path / "source", model=SMALL)


def change_config(folder, change) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(read_json(file) | change))


def config_from(folder, model=SMALL, **fields):
    return TrainConfig(model=model, init_from=str(folder), **fields)


def test_keys_of_the_source_reach_data_run_and_export(source, tmp_path):
    change_config(source, KEYS)
    plan = resolve(config_from(source))
    assert plan.pinpoints == KEYS["image_grid_pinpoints"]
    workdir = tmp_path / "run"
    write_workdir(plan.config, workdir=workdir, release=plan.release)
    written = read_json(workdir / "config.json")
    assert {key: written[key] for key in KEYS} == KEYS
    assert written["torch_dtype"] == "float32"
    assert {"bos_token_id", "mm_use_im_start_end"} <= written.keys()
    assert (workdir / "tokenizer_config.json").exists()
    # A resumed run uses its own folder.
    change_config(source, {"image_grid_pinpoints": [[112, 56]]})
    assert resume_plan(resolve(config_from(source)), workdir=workdir).pinpoints == plan.pinpoints
    (source / "params").rename(workdir / "params")
    to_torch.convert(workdir, tmp_path / "export")
    exported = read_json(tmp_path / "export" / "config.json")
    assert {key: exported[key] for key in KEYS} == KEYS
    merges = read_json(tmp_path / "export" / "tokenizer.json")["model"]["merges"]
    assert all(isinstance(pair, str) for pair in merges)
    assert (tmp_path / "export" / "generation_config.json").exists()


def test_numbers_without_a_shape_follow_the_source_unless_the_run_sets_them(source):
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    change_config(source, {"rope_theta": 5e3, "rms_norm_eps": 1e-5, "rope_scaling": yarn})
    decoder = resolve(config_from(source)).config.model.decoder
    assert (decoder.rope_theta, decoder.norm_eps, decoder.yarn.factor) == (5e3, 1e-5, 4.0)
    own = dataclasses.replace(SMALL.decoder, rope_theta=7e3, yarn=YarnConfig(factor=2.0))
    model = dataclasses.replace(SMALL, decoder=own)
    decoder = resolve(config_from(source, model=model)).config.model.decoder
    assert (decoder.rope_theta, decoder.yarn.factor) == (7e3, 2.0)


@pytest.mark.parametrize("objective", ["sft", "recot"])
def test_a_checkpoint_of_another_size_is_refused_by_both(source, objective):
    with pytest.raises(InputError) as caught:
        resolve(config_from(source, model=PRESETS["tiny"], objective=objective))
    message = str(caught.value)
    assert "vision.width 32 (here 64)" in message
    assert "--config.model" in message
    change_config(source, {"dts_grid": 4, "visual_pool": 2})
    with pytest.raises(InputError, match=r"dts.grid 4 \(here 8\)"):
        resolve(config_from(source, objective="recot"))
    change_config(source, PRESETS["tiny"].to_release())
    with pytest.raises(InputError, match=r"FILE.py:tiny"):
        resolve(config_from(source))


def test_a_tokenizer_larger_than_the_model_is_refused(source):
    from vxlpro_jax.inference.loading import load_model

    change_config(source, {"vocab_size": 300})
    with pytest.raises(InputError, match="has 382 ids, the model only 300"):
        load_model(source)
