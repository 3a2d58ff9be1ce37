"""Training on features kept on disk: the same as on frames, and never on stale ones."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MICRO, write_clip, write_dataset

from vxlpro_jax import feature_cache, sharding
from vxlpro_jax.config import (
    DataConfig,
    DtsConfig,
    InputError,
    MeshConfig,
    OptimConfig,
    ParamGroup,
    RecotConfig,
    TrainConfig,
)
from vxlpro_jax.data.features import FeatureFiles, Visual
from vxlpro_jax.data.pipeline import BatchIterator, build_pipeline
from vxlpro_jax.data.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.jit import jit
from vxlpro_jax.tasks import task_of
from vxlpro_jax.train import resolve, train

FROZEN = OptimConfig(groups=(ParamGroup(pattern="^vision/", lr_scale=0.0),))


@pytest.fixture
def config(tmp_path):
    """Two clips of unequal length, a picture and a text: one batch of four, and answers to learn.

    The picture's only tiling is the whole.
    """
    data = DataConfig(
        path=str(write_dataset(tmp_path)),
        tokenizer=str(TINY_TOKENIZER),
        batch_size=4,
        bad_sample_quota=0.6,
        feature_cache=str(tmp_path / "cache"),
    )
    config = TrainConfig(
        model=dataclasses.replace(MICRO, dts=DtsConfig(grid=4)),
        recot=RecotConfig(decoder_width=8, decoder_depth=1, decoder_heads=2),
        data=data,
        optim=FROZEN,
        keep_ratio=(1.0, 1.0),
        total_steps=2,
    )
    return resolve(config)


class Run(NamedTuple):
    """Attributes: `data` on frames, `params`, and `files` of their tower's features."""

    data: BatchIterator
    params: dict[str, Any]
    files: FeatureFiles


def fill(config: TrainConfig) -> Run:
    mesh = sharding.make_mesh(MeshConfig())
    jax.set_mesh(mesh)
    side = config.model.vision.image_size
    with_text = config.task == "answer"
    data = build_pipeline(config.data, image_size=side, seed=0, with_text=with_text)
    params = jit(task_of(config).init_params)(jax.random.key(config.seed))
    place = functools.partial(jax.make_array_from_process_local_data, sharding.batch_sharding(mesh))
    files = feature_cache.fill(
        params["vision"], config=config, source=data.source, to_devices=place
    )
    return Run(data, params, files)


@pytest.mark.parametrize("task", ["answer", "recot"])
def test_the_loss_is_that_of_frames(task, config, no_mesh):
    config = dataclasses.replace(config, task=task)
    data, params, files = fill(config)
    loss = jit(lambda batch: task_of(config).loss(params, batch, key=jax.random.key(1)).value)
    start = data.get_state()
    on_frames = next(data)
    data.set_state(start)
    data.read_features(files)
    on_features = next(data)
    data.close()
    assert "frames" not in on_features
    shared = on_frames.keys() & on_features.keys()
    assert len(shared) == 5
    for key in shared:
        np.testing.assert_array_equal(on_features[key], on_frames[key])
    np.testing.assert_allclose(loss(on_features), loss(on_frames), rtol=1e-5)


def test_training_reads_what_it_has_made(config, tmp_path, no_mesh):
    train(config, workdir=tmp_path / "run")
    found = (tmp_path / "cache").rglob("*.npz")
    shapes = sorted(np.load(file)["groups"].shape for file in found)
    assert shapes == [(1, 4, 16, 32), (1, 4, 16, 32), (2, 4, 16, 32)]
    steps = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(steps) == config.total_steps


def test_only_what_is_missing_is_made(config, tmp_path, no_mesh):
    folder = fill(config).files.folder
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    write_clip(tmp_path / "short.mp4", frames=7, seed=9)
    assert fill(config).files.folder == folder
    after = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert before.items() < after.items()
    assert len(after) == len(before) + 1 == 4
    assert fill(dataclasses.replace(config, seed=1)).files.folder != folder


def test_a_file_without_features_is_named(config, tmp_path, no_mesh):
    (tmp_path / "short.mp4").write_text("no video")
    data, _, files = fill(config)
    data.read_features(files)
    next(data)
    assert set(data.get_state()["bad_records"]) == {0}
    data.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_come_back_bit_for_bit(dtype, tmp_path):
    files = FeatureFiles(tmp_path, dtype, places=3, width=5)
    features = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(jnp.dtype(dtype))
    files.write("clip", Visual(features, np.array([0.0, 1.5])))
    back = files.read("clip")
    assert back.groups.dtype == features.dtype == files.nothing().groups.dtype
    assert back.groups.tobytes() == features.tobytes()
    assert back.times.tolist() == [0.0, 1.5]
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz"}


def test_a_tower_that_learns_has_no_features_to_keep(config):
    with pytest.raises(InputError, match="frozen tower"):
        resolve(dataclasses.replace(config, optim=OptimConfig()))


def test_a_folder_that_cannot_be_written(config, tmp_path, no_mesh):
    (tmp_path / "cache").touch()
    with pytest.raises(InputError, match=r"set data\.feature_cache"):
        fill(config)
