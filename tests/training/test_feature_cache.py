"""Training on cached features equals training on frames, and never uses stale features."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from helpers import MICRO, ROOT, chat, free_port, python, write_clip, write_dataset

from vxlpro_jax.config.schema import (
    DataConfig,
    DtsConfig,
    MeshConfig,
    OptimConfig,
    ParamGroup,
    RecotConfig,
    TrainConfig,
)
from vxlpro_jax.data.features.store import FeatureStore, RunFeatures
from vxlpro_jax.data.loader.batches import BatchIterator
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.data.sources import arrayrecord_format as ingested
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.sharding.batch import batch_sharding
from vxlpro_jax.sharding.mesh import make_mesh
from vxlpro_jax.train import train
from vxlpro_jax.training import feature_cache
from vxlpro_jax.training.objective import objective_of
from vxlpro_jax.training.optimizer import stop_frozen
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.setup import resolve
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.jit import jit

pytestmark = pytest.mark.slow


def freezing(pattern: str) -> OptimConfig:
    return OptimConfig(groups=(ParamGroup(pattern=pattern, lr_scale=0.0),))


TOWER, TOWER_AND_DTS = freezing("^vision/"), freezing("^(vision|dts)/")


@pytest.fixture
def config(tmp_path):
    """Two clips of unequal length, a picture and a text make one batch of four with targets.

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
        optim=TOWER,
        keep_ratio=(1.0, 1.0),
        total_steps=2,
    )
    return resolve(config).config


class Run(NamedTuple):
    """Attributes: `data` on frames, `params`, and `features` of their frozen parts."""

    data: BatchIterator
    params: dict[str, Any]
    features: RunFeatures


def fill(config: TrainConfig) -> Run:
    mesh = make_mesh(MeshConfig())
    jax.set_mesh(mesh)
    side = config.model.vision.image_size
    plan = RunPlan(config)
    with_text = plan.objective.reads_text
    data = build_pipeline(config.data, image_size=side, seed=0, with_text=with_text)
    params = jit(plan.objective.init_params)(jax.random.key(config.seed))
    place = functools.partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
    features = feature_cache.fill_feature_cache(
        params, plan=plan, source=data.source, to_devices=place
    )
    return Run(data, params, features)


def shards(config: TrainConfig) -> set[str]:
    """Returns the paths of the shards of all weights; content hashes have other files."""
    return {str(path) for path in Path(config.data.feature_cache).rglob("*.arrayrecord")}


@pytest.mark.parametrize(
    ("objective", "optim", "kept"),
    [
        ("sft", TOWER, "features"),
        ("sft", TOWER_AND_DTS, "compressed"),
        ("recot", TOWER, "features"),
    ],
)
def test_loss_and_gradients_are_those_of_frames(objective, optim, kept, config, no_mesh):
    """Features are stored in float32, and training is in float64.

    The selector's gradients, in float32, are mostly rounding: up to 2 % off.
    """
    config = dataclasses.replace(config, objective=objective, optim=optim, encode_microbatch=1)
    data, params, features = fill(config)
    exact = dataclasses.replace(config, compute_dtype="float64")

    @jit
    @functools.partial(jax.value_and_grad, argnums=1)
    def learn(batch, params):
        params = stop_frozen(params, config=optim)
        return objective_of(exact).loss(params, batch, key=jax.random.key(1)).value

    start = data.get_state()
    on_frames = next(data)
    data.set_state(start)
    data.read_features(features)
    on_features = next(data)
    data.close()
    assert on_features.keys() - on_frames.keys() == {kept}
    shared = on_frames.keys() & on_features.keys()
    assert len(shared) == 5
    for key in shared:
        np.testing.assert_array_equal(on_features[key], on_frames[key])
    with jax.enable_x64(True):
        params = tree.cast(params, "float64")
        runs = jax.device_get([learn(on_features, params), learn(on_frames, params)])
    (loss, grads), (expected, wanted) = runs
    np.testing.assert_allclose(loss, expected, rtol=1e-7)
    assert any(leaf.any() for leaf in jax.tree.leaves(grads))
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7)
    jax.tree.map(same, grads, wanted)


@pytest.mark.parametrize(
    ("objective", "pattern", "kept"),
    [
        ("sft", "^(vision|dts)/", True),
        ("sft", "^(vision|dts|projector|decoder)/", True),
        ("sft", "^vision/", False),
        ("sft", "^(vision/|dts/block0)", False),
        ("recot", "^(vision|dts)/", False),
    ],
)
def test_the_compressors_output_is_kept_where_it_stays_the_same(objective, pattern, kept, config):
    config = dataclasses.replace(config, objective=objective, optim=freezing(pattern))
    assert feature_cache.keeps_compressed(RunPlan(config)) == kept


def test_training_reads_what_it_has_made(config, tmp_path, no_mesh):
    train(config, workdir=tmp_path / "run")
    (shard,) = shards(config)
    index = json.loads(Path(shard).with_suffix(".json").read_text())
    assert (index["shape"], index["dtype"]) == ([4, 16, 32], "float32")
    assert sorted(groups for _, groups in index["visuals"].values()) == [1, 1, 2]
    steps = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(steps) == config.total_steps


def test_only_what_is_missing_is_made(config, tmp_path, no_mesh):
    store = fill(config).features.store
    before = shards(config)
    assert len(store) == 3
    again = fill(config).features.store
    assert (again.folder, shards(config)) == (store.folder, before)
    write_clip(tmp_path / "short.mp4", frames=7, seed=9)
    again = fill(config).features.store
    assert again.folder == store.folder
    assert len(again) == 4
    (more,) = shards(config) - before
    assert len(json.loads(Path(more).with_suffix(".json").read_text())["visuals"]) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"model": dataclasses.replace(MICRO, dts=DtsConfig(grid=8))},
        {"compute_dtype": "bfloat16"},
    ],
)
def test_other_weights_sizes_and_parts_have_a_folder_of_their_own(change, config, no_mesh):
    folder = fill(config).features.store.folder
    assert fill(dataclasses.replace(config, **change)).features.store.folder != folder


@pytest.mark.parametrize("change", [{"fps": 1.0}, {"frames_per_sample": 4}])
def test_clips_that_are_read_otherwise_are_encoded_again(change, config, no_mesh):
    fill(config)
    data = dataclasses.replace(config.data, **change)
    store = fill(dataclasses.replace(config, data=data)).features.store
    assert len(store) == 5, "the picture's serve, the two clips' do not"


def test_a_compressor_that_learns_shares_the_towers_features(config, no_mesh):
    fill(config)
    before = shards(config)
    fill(dataclasses.replace(config, optim=freezing("^(vision|projector)/")))
    assert shards(config) == before


def test_copies_and_moved_folders_keep_their_features(config, tmp_path, no_mesh):
    fill(config)
    before = shards(config)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("short.mp4", "long.mp4", "picture.png"):
        (tmp_path / name).rename(moved / name)
    shutil.copy(moved / "long.mp4", moved / "copy.mp4")
    talk = chat("<image>\nWhat?", "red")
    records = [{"video": name, "conversations": talk} for name in ("copy.mp4", "long.mp4")]
    (moved / "data.json").write_text(json.dumps(records))
    data = dataclasses.replace(config.data, path=str(moved / "data.json"), batch_size=2)
    run = fill(dataclasses.replace(config, data=data))
    assert shards(config) == before
    run.data.read_features(run.features)
    copy, original = next(run.data)["features"]
    run.data.close()
    np.testing.assert_array_equal(copy, original)


def test_files_that_records_hold_have_the_features_of_those_on_disk(config, tmp_path, no_mesh):
    fill(config)
    before = shards(config)
    held = ArrayRecordWriter(str(tmp_path / "held.arrayrecord"), "group_size:1,uncompressed")
    for name in ("short", "long"):
        content = (tmp_path / f"{name}.mp4").read_bytes()
        talk = tuple(chat("<image>\nWhat?", "red"))
        held.write(ingested.encode_record(ingested.IngestedRecord(name, talk, content)))
    held.close()
    data = dataclasses.replace(config.data, path=str(tmp_path / "held.arrayrecord"), batch_size=2)
    run = fill(dataclasses.replace(config, data=data))
    assert shards(config) == before
    run.data.read_features(run.features)
    assert (next(run.data)["group_segments"].sum(), run.data.get_state()["bad_records"]) == (3, [])
    run.data.close()


def test_a_folder_of_frames_counts_with_all_of_them(config, tmp_path, no_mesh):
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("1.png", "2.png"):
        shutil.copy(tmp_path / "picture.png", frames / name)
    record = {"video": "frames", "conversations": chat("<image>\nWhat?", "red")}
    (tmp_path / "data.json").write_text(json.dumps([record] * 4))
    assert len(fill(config).features.store) == 1
    pixels = bytearray((frames / "2.png").read_bytes())
    shutil.copy(tmp_path / "picture.png", frames / "3.png")
    assert len(fill(config).features.store) == 2
    (frames / "2.png").write_bytes(pixels + b"end")
    assert len(fill(config).features.store) == 3


def test_a_file_without_features_is_named(config, tmp_path, no_mesh):
    (tmp_path / "short.mp4").write_text("no video")
    data, _, features = fill(config)
    data.read_features(features)
    next(data)
    assert set(data.get_state()["bad_records"]) == {0}
    data.close()


def test_damaged_features_are_named_and_made_again(config, no_mesh):
    data, _, features = fill(config)
    (shard,) = map(Path, shards(config))
    content = bytearray(shard.read_bytes())
    values = features.store.read(features.keys[sorted(features.keys)[0]]).groups.tobytes()
    content[content.index(values) + 50] ^= 1
    shard.write_bytes(content)
    data.read_features(features)
    next(data)
    assert len(data.get_state()["bad_records"]) == 1
    data.close()

    assert len(FeatureStore(features.store.folder, kind=features.store.kind)) == 0
    run = fill(config)
    assert len(run.features.store) == 3
    assert len(shards(config)) == 1
    run.data.read_features(run.features)
    next(run.data)
    assert run.data.get_state()["bad_records"] == []
    run.data.close()


def fill_in_processes(count: int, *, tensor: int, cache: Path, data: Path) -> list[list[float]]:
    """Fills the cache with several processes; returns the output of each."""
    driver, port = Path(__file__).parents[1] / "support" / "feature_cache_driver.py", free_port()
    processes = [
        python(
            *(driver, cache, data, tensor),
            PYTHONPATH=f"{ROOT}:{driver.parent}",
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            VXLPRO_TIMEOUT="120",
            VXLPRO_NUM_PROCESSES=str(count),
            VXLPRO_PROCESS_ID=str(index),
            VXLPRO_COORDINATOR=f"localhost:{port}",
        )
        for index in range(count)
    ]
    told = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * count, told
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


def test_processes_make_each_visual_once_and_share_them(tmp_path):
    data = write_dataset(tmp_path)
    apart, same = tmp_path / "apart", tmp_path / "same"
    first, second = fill_in_processes(2, tensor=1, cache=apart, data=data)
    assert (len(first), len(second)) == (2, 2)
    for rows in fill_in_processes(2, tensor=2, cache=same, data=data):
        assert rows == pytest.approx(first + second, rel=1e-5)
    for cache, counts in ((apart, [1, 2]), (same, [3])):
        visuals = [json.loads(path.read_text())["visuals"] for path in cache.glob("*/*.json")]
        assert sorted(map(len, visuals)) == counts
        assert len(set().union(*visuals)) == 3


def test_a_tower_that_learns_has_no_features_to_keep(config):
    with pytest.raises(InputError, match="frozen tower"):
        resolve(dataclasses.replace(config, optim=OptimConfig()))


def test_a_folder_that_cannot_be_written(config, tmp_path, no_mesh):
    (tmp_path / "cache").touch()
    with pytest.raises(InputError, match=r"set data\.feature_cache"):
        fill(config)
