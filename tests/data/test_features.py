"""The feature store returns what was written, even if processes are killed."""

import contextlib
import json
import os
import signal
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import python

from vxlpro_jax.data.features.blocks import GroupType, Visual
from vxlpro_jax.data.features.shards import remove_unused
from vxlpro_jax.data.features.store import FeatureStore, FeatureWriter, RunFeatures
from vxlpro_jax.utils.errors import InputError

SMALL = GroupType((3, 5), "float32")
# A record of 4 MiB holds three groups of these.
LARGE = GroupType((144, 2048), "float32")


def visual(groups: int, *, kind: GroupType = SMALL, seed: int = 0) -> Visual:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(groups, *kind.shape)).astype(jnp.dtype(kind.dtype))
    return Visual(values, rng.uniform(0, 1e5, groups))


def same(one: Visual, other: Visual) -> bool:
    return one.groups.dtype == other.groups.dtype and all(
        a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True)
    )


def blocks(whole: Visual, *sizes: int):
    start = 0
    for size in sizes:
        yield Visual(*(part[start : start + size] for part in whole))
        start += size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("groups", [0, 1, 2, 7])
def test_features_come_back_bit_for_bit(dtype, groups, tmp_path):
    kind = GroupType((4, 3, 5), dtype)
    clips = {str(seed): visual(groups, kind=kind, seed=seed) for seed in range(3)}
    with FeatureWriter(tmp_path, kind=kind) as writer:
        for key, clip in clips.items():
            writer.write(key, [clip])
    store = FeatureStore(tmp_path, kind=kind)
    assert len(store) == 3
    for key, clip in clips.items():
        assert same(store.read(key), clip)
    assert same(RunFeatures(store, {}).empty(), visual(0, kind=kind))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".arrayrecord", ".json"]


@pytest.mark.parametrize("sizes", [(10,), (1,) * 10, (4, 6), (2, 0, 7, 1), (3, 3, 3, 1)])
def test_blocks_of_any_size_make_one_visual(sizes, tmp_path):
    whole = visual(10, kind=LARGE)
    with FeatureWriter(tmp_path, kind=LARGE) as writer:
        writer.write("clip", blocks(whole, *sizes))
    store = FeatureStore(tmp_path, kind=LARGE)
    assert [len(block.times) for block in store.blocks("clip")] == [3, 3, 3, 1]
    assert same(store.read("clip"), whole)


def test_a_long_video_takes_the_memory_of_a_few_blocks(tmp_path):
    kind = GroupType((144, 256), "bfloat16")
    block = visual(50, kind=kind)
    whole = 20 * block.groups.nbytes
    tracemalloc.start()
    with FeatureWriter(tmp_path, kind=kind) as writer:
        writer.write("long", (block for _ in range(20)))
    store = FeatureStore(tmp_path, kind=kind)
    assert sum(len(block.times) for block in store.blocks("long")) == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * whole


def test_shards_end_by_size_and_by_age(tmp_path):
    for limits, count in (({"shard_bytes": 100}, 5), ({"shard_seconds": 0.0}, 5), ({}, 1)):
        folder = tmp_path / str(limits)
        folder.mkdir()
        with FeatureWriter(folder, kind=SMALL, **limits) as writer:
            for seed in range(5):
                writer.write(str(seed), [visual(2, seed=seed)])
        assert len(list(folder.glob("*.arrayrecord"))) == count
        store = FeatureStore(folder, kind=SMALL)
        assert all(same(store.read(str(seed)), visual(2, seed=seed)) for seed in range(5))


def test_threads_share_a_store(tmp_path):
    keys = [str(seed) for seed in range(100)]
    with FeatureWriter(tmp_path, kind=SMALL, shard_bytes=200) as writer:
        for key in keys:
            writer.write(key, [visual(3, seed=int(key))])
    store = FeatureStore(tmp_path, kind=SMALL)
    with ThreadPoolExecutor(8) as pool:
        for key, found in zip(keys * 3, pool.map(store.read, keys * 3), strict=True):
            assert same(found, visual(3, seed=int(key)))


def test_a_visual_that_fails_midway_is_absent_and_the_others_are_not(tmp_path):
    def half():
        yield visual(2)
        raise InputError("The rest cannot be read.")

    with FeatureWriter(tmp_path, kind=SMALL) as writer:
        writer.write("before", [visual(1, seed=1)])
        with pytest.raises(InputError, match="The rest"):
            writer.write("half", half())
        writer.write("after", [visual(1, seed=2)])
    store = FeatureStore(tmp_path, kind=SMALL)
    assert "half" not in store
    assert same(store.read("before"), visual(1, seed=1))
    assert same(store.read("after"), visual(1, seed=2))


def test_an_error_outside_keeps_what_is_complete(tmp_path):
    with contextlib.suppress(KeyboardInterrupt), FeatureWriter(tmp_path, kind=SMALL) as writer:
        writer.write("clip", [visual(1)])
        raise KeyboardInterrupt
    assert same(FeatureStore(tmp_path, kind=SMALL).read("clip"), visual(1))


@pytest.mark.parametrize("wrong", [GroupType((3, 4), "float32"), GroupType((3, 5), "bfloat16")])
def test_another_kind_is_refused(wrong, tmp_path):
    with (
        FeatureWriter(tmp_path, kind=SMALL) as writer,
        pytest.raises(ValueError, match="are no"),
    ):
        writer.write("clip", [visual(1, kind=wrong)])


_WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
import numpy as np
from vxlpro_jax.data.features.blocks import GroupType, Visual
from vxlpro_jax.data.features.store import FeatureWriter

def clip():
    yield Visual(np.ones((2, 3, 5), np.float32), np.zeros(2))
    print("half", flush=True)
    time.sleep(600)

with FeatureWriter(Path(sys.argv[1]), kind=GroupType((3, 5), "float32")) as writer:
    writer.write("whole", [Visual(np.ones((2, 3, 5), np.float32), np.zeros(2))])
    writer.write("half", clip())
"""


def test_what_a_killed_process_leaves_is_swept_and_what_a_live_one_writes_is_not(tmp_path):
    with FeatureWriter(tmp_path, kind=SMALL) as writer:
        writer.write("clip", [visual(1)])
    finished = set(tmp_path.iterdir())
    child = python("-c", _WRITE_AND_WAIT, tmp_path)
    assert child.stdout.readline() == "half\n"
    left = set(tmp_path.iterdir()) - finished
    assert len(left) == 1
    remove_unused(tmp_path, kind=SMALL)
    assert set(tmp_path.iterdir()) == finished | left
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert len(FeatureStore(tmp_path, kind=SMALL)) == 1
    remove_unused(tmp_path, kind=SMALL)
    assert set(tmp_path.iterdir()) == finished


@pytest.fixture
def shard(tmp_path):
    """A shard with the features of two clips."""
    with FeatureWriter(tmp_path, kind=SMALL) as writer:
        writer.write("a", [visual(20, seed=1)])
        writer.write("b", [visual(20, seed=2)])
    return next(tmp_path.glob("*.arrayrecord"))


def cut(shard):
    shard.write_bytes(shard.read_bytes()[:-1000])


def edit(shard, **fields):
    index = shard.with_suffix(".json")
    index.write_text(json.dumps(json.loads(index.read_text()) | fields))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda shard: shard.unlink(),
        lambda shard: shard.with_suffix(".json").write_text('{"shape": [3,'),
        lambda shard: shard.with_suffix(".json").write_text("[]"),
        lambda shard: edit(shard, visuals=[1]),
        lambda shard: edit(shard, shape=[3, 6]),
        lambda shard: edit(shard, dtype="bfloat16"),
    ],
)
def test_a_damaged_shard_is_absent_and_swept(damage, shard, tmp_path, caplog):
    damage(shard)
    assert len(FeatureStore(tmp_path, kind=SMALL)) == 0
    assert f"{shard} are ignored" in caplog.text
    remove_unused(tmp_path, kind=SMALL)
    assert list(tmp_path.glob(f"{shard.stem}.arrayrecord")) == []
    with FeatureWriter(tmp_path, kind=SMALL) as writer:
        writer.write("a", [visual(20, seed=1)])
    assert same(FeatureStore(tmp_path, kind=SMALL).read("a"), visual(20, seed=1))


def test_a_damaged_record_is_named_and_its_shard_absent_from_then_on(shard, tmp_path):
    store = FeatureStore(tmp_path, kind=SMALL)
    content = bytearray(shard.read_bytes())
    content[content.index(visual(20, seed=1).groups.tobytes()) + 100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=rf"{shard.name} are damaged .* compute them again"):
        store.read("a")
    assert same(store.read("b"), visual(20, seed=2))
    assert len(FeatureStore(tmp_path, kind=SMALL)) == 0


@pytest.mark.parametrize("visuals", [{"a": [0, 19]}, {"a": [7, 20]}])
def test_wrong_index_counts_as_damage(visuals, shard, tmp_path):
    edit(shard, visuals=visuals)
    with pytest.raises(InputError, match="are damaged"):
        FeatureStore(tmp_path, kind=SMALL).read("a")


def test_a_shard_that_cannot_be_opened_is_named_and_is_not_taken_for_damaged(shard, tmp_path):
    store, hidden = FeatureStore(tmp_path, kind=SMALL), tmp_path / "hidden"
    shard.rename(hidden)
    with pytest.raises(InputError, match=rf"{shard.name} cannot be read .*No such file"):
        store.read("a")
    hidden.rename(shard)
    assert same(store.read("a"), visual(20, seed=1))
    assert len(FeatureStore(tmp_path, kind=SMALL)) == 2


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    with (
        pytest.raises(OSError, match="No such file"),
        FeatureWriter(tmp_path / "none", kind=SMALL) as writer,
    ):
        writer.write("clip", [visual(1)])
