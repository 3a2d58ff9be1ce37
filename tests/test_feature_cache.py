"""Stage 1 on features kept on disk: the same run as on frames, and never on stale ones."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MICRO, write_clip

from vxlpro_jax.config import (
    DataConfig,
    DtsConfig,
    InputError,
    OptimConfig,
    ParamGroup,
    RecotConfig,
    TrainConfig,
)
from vxlpro_jax.data.features import FeatureFiles
from vxlpro_jax.data.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.train import resolve, train

STEPS = 6


@pytest.fixture
def config(tmp_path):
    """Two clips of unequal length, twice each, two a batch."""
    for seed, frames in enumerate((3, 8)):
        write_clip(tmp_path / f"{frames}.mp4", frames=frames, seed=seed)
    samples = [{"video": "3.mp4"}, {"video": "8.mp4"}] * 2
    (tmp_path / "data.json").write_text(json.dumps(samples))
    return TrainConfig(
        task="recot",
        model=dataclasses.replace(MICRO, dts=DtsConfig(grid=4)),
        recot=RecotConfig(decoder_width=8, decoder_depth=1, decoder_heads=2),
        data=DataConfig(path=str(tmp_path / "data.json"), batch_size=2, bad_sample_quota=0.6),
        optim=OptimConfig(groups=(ParamGroup(pattern="^vision/", lr_scale=0.0),)),
        total_steps=STEPS,
    )


def cached(config: TrainConfig, folder) -> TrainConfig:
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, feature_cache=str(folder))
    )


def losses(run) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_losses_are_those_of_frames(config, tmp_path, no_mesh):
    train(config, workdir=tmp_path / "frames")
    train(cached(config, tmp_path / "cache"), workdir=tmp_path / "features")
    files = list((tmp_path / "cache").rglob("*.npy"))
    assert sorted(np.load(file).shape for file in files) == [(1, 4, 16, 32), (2, 4, 16, 32)]
    expected = losses(tmp_path / "frames")
    assert len(expected) == STEPS
    np.testing.assert_allclose(losses(tmp_path / "features"), expected, rtol=1e-5)


def test_only_what_is_missing_is_made(config, tmp_path, no_mesh):
    config = cached(config, tmp_path / "cache")
    train(config, workdir=tmp_path / "first")
    [folder] = (tmp_path / "cache").iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    write_clip(tmp_path / "3.mp4", frames=7, seed=9)
    train(config, workdir=tmp_path / "second")
    after = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert before.items() < after.items()
    assert len(after) == 3
    train(dataclasses.replace(config, seed=1), workdir=tmp_path / "other_tower")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_file_without_features_is_named(config, tmp_path, no_mesh):
    (tmp_path / "3.mp4").write_text("no video")
    train(cached(config, tmp_path / "cache"), workdir=tmp_path / "run")
    bad = [json.loads(s) for s in (tmp_path / "run/bad_samples.jsonl").read_text().splitlines()]
    assert {sample["record"] for sample in bad} == {0, 2}
    assert all("3.mp4" in sample["reason"] for sample in bad)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_come_back_bit_for_bit(dtype, tmp_path):
    (tmp_path / "clip.mp4").touch()
    files = FeatureFiles(tmp_path, dtype)
    features = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(jnp.dtype(dtype))
    files.write(tmp_path / "clip.mp4", features)
    back = files.read(tmp_path / "clip.mp4")
    assert back.dtype == features.dtype
    assert back.tobytes() == features.tobytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".mp4", ".npy"}


def test_a_tower_that_learns_has_no_features_to_keep(config, tmp_path):
    free = dataclasses.replace(cached(config, tmp_path), optim=OptimConfig())
    data = dataclasses.replace(free.data, tokenizer=str(TINY_TOKENIZER))
    answers = dataclasses.replace(config, task="answer", data=data)
    for wrong in (free, answers):
        with pytest.raises(InputError, match="frozen tower"):
            resolve(wrong)


def test_a_folder_that_cannot_be_written(config, tmp_path, no_mesh):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"set data\.feature_cache"):
        train(cached(config, tmp_path / "file"), workdir=tmp_path / "run")
