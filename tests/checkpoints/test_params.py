"""Tests parameters on disk: stock Orbax and this package read each other's folders."""

import json

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vxlpro_jax.checkpoints import array_store
from vxlpro_jax.checkpoints.params import (
    locate,
    open_leaves,
    params_metadata,
    read_leaf,
    read_model_config,
    read_params,
    write_params,
)
from vxlpro_jax.config.schema import PRESETS
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def draw(shape, dtype):
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32).astype(dtype)


@pytest.fixture
def params():
    return {
        # The number of rows is prime, and there is more than one block.
        "embed": draw((15_013, 601), BFLOAT16),
        "layers": {"kernel": draw((6, 40, 24), np.float32), "bias": draw((6, 8), np.float16)},
    }


@pytest.fixture
def directory(tmp_path, params):
    write_params(tmp_path / "model" / "params", leaves=params)
    return tmp_path / "model" / "params"


def assert_same_bits(actual, expected):
    actual, expected = tree.flatten(actual), tree.flatten(expected)
    assert actual.keys() == expected.keys()
    for path, array in expected.items():
        got = np.asarray(actual[path])
        assert (got.shape, got.dtype) == (array.shape, array.dtype), path
        assert got.tobytes() == array.tobytes(), path


def test_stock_orbax_reads_it(directory, params):
    assert_same_bits(ocp.PyTreeCheckpointer().restore(directory), params)


@pytest.mark.parametrize("convert", [np.asarray, jax.numpy.asarray])
def test_we_read_stock_orbax(tmp_path, params, convert):
    ocp.PyTreeCheckpointer().save(tmp_path / "stock", jax.tree.map(convert, params))
    assert_same_bits(read_params(tmp_path / "stock"), params)


@pytest.mark.slow
def test_lazy_leaves_are_read_once_a_block(tmp_path):
    array = draw((40, 2**20), np.float32)
    reads = []

    def read(start, stop):
        reads.append((start, stop))
        return array[start:stop]

    rows = array_store.rows_per_block(array.shape, array.dtype)
    leaf = array_store.LazyLeaf(shape=array.shape, dtype=array.dtype, rows=rows, read=read)
    write_params(tmp_path / "params", leaves={"a": leaf})
    assert reads == [(start, start + 4) for start in range(0, 40, 4)]
    stored = open_leaves(tmp_path / "params")["a"]
    assert stored.rows == 4
    np.testing.assert_array_equal(stored.read(5, 9), array[5:9])
    starts = [start for start, _ in stored.blocks()]
    assert starts == list(range(0, 40, 4))


def test_metadata_and_single_leaves(directory, params):
    structs = tree.flatten(params_metadata(directory))
    expected = {path: (a.shape, a.dtype) for path, a in tree.flatten(params).items()}
    assert {path: (s.shape, s.dtype) for path, s in structs.items()} == expected
    np.testing.assert_array_equal(read_leaf(directory, "layers/bias"), params["layers"]["bias"])
    with pytest.raises(InputError, match="no parameter 'layers/gain'"):
        read_leaf(directory, "layers/gain")


def test_dtype_and_choice(directory, params):
    read = read_params(directory, dtype="float32", only=lambda path: path.startswith("layers"))
    assert_same_bits(
        read, {"layers": jax.tree.map(lambda a: a.astype(np.float32), params["layers"])}
    )


def test_a_branch_is_read_row_by_row(directory, params):
    rows = {
        f"layers_{row}": jax.tree.map(lambda leaf, at=row: leaf[at], params["layers"])
        for row in range(len(params["layers"]["bias"]))
    }
    expected = rows | {name: leaf for name, leaf in params.items() if name != "layers"}
    assert_same_bits(read_params(directory, unstack="layers"), expected)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert_same_bits(read_params(directory, like=like, unstack="layers"), expected)


def test_shardings_are_restored(directory, params):
    count = len(jax.devices())
    mesh = jax.make_mesh((count,), ("x",), axis_types=(AxisType.Auto,))
    specs = {"layers/kernel": PartitionSpec(None, "x"), "layers/bias": PartitionSpec()}
    like = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, np.float32, sharding=NamedSharding(mesh, specs.get(path, PartitionSpec()))
        )
        for path, leaf in tree.flatten(params).items()
    }
    read = tree.flatten(read_params(directory, like=tree.unflatten(like)))
    assert all(read[path].sharding == like[path].sharding for path in like)
    assert_same_bits(tree.unflatten(read), params)


def test_misfit_lists_everything(directory):
    like = {
        "embed": jax.ShapeDtypeStruct((3, 4), np.float32),
        "layers": {"bias": jax.ShapeDtypeStruct((6, 8), np.float32)},
        "head": jax.ShapeDtypeStruct((1,), np.float32),
    }
    with pytest.raises(InputError) as error:
        read_params(directory, like=like)
    assert "missing: head; unexpected: layers/kernel; wrong shape: embed (15013, 601)" in (
        str(error.value)
    )
    chosen = read_params(directory, like=like, only=lambda path: path == "layers/bias")
    assert tree.flatten(chosen).keys() == {"layers/bias"}


def largest_file(directory):
    return max((f for f in directory.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


@pytest.mark.parametrize("damage", ["truncate data", "remove data", "empty metadata", "manifest"])
def test_damage_is_told(directory, damage):
    if damage == "truncate data":
        file = largest_file(directory)
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "remove data":
        largest_file(directory).unlink()
    elif damage == "empty metadata":
        (directory / "_METADATA").write_text("")
    else:
        (directory / "manifest.ocdbt").unlink()
    with pytest.raises(InputError, match=r"params cannot be read as an Orbax checkpoint"):
        read_params(directory)


def test_nothing_is_overwritten(directory, params):
    with pytest.raises(InputError, match="exists already"):
        write_params(directory, leaves=params)


def test_failed_write_leaves_nothing(tmp_path):
    def read(start, stop):
        raise InputError("the source is damaged")

    leaf = array_store.LazyLeaf(shape=(2,), dtype=np.dtype(np.float32), rows=2, read=read)
    with pytest.raises(InputError, match="the source is damaged"):
        write_params(tmp_path / "params", leaves={"a": leaf})
    assert not (tmp_path / "params").exists()


def test_model_folder_is_located(directory):
    model = directory.parent
    (model / "config.json").write_text(json.dumps(PRESETS["tiny"].to_release()))
    located = locate(model)
    assert (str(located.params), str(located.root)) == (str(directory), str(model))
    assert read_model_config(located.root) == PRESETS["tiny"]


def test_training_folder_is_located(tmp_path, params):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="has no complete checkpoint yet"):
        locate(tmp_path)
    for step in ("9", "10"):
        write_params(tmp_path / "checkpoints" / step / "params", leaves=params["layers"])
    (tmp_path / "checkpoints" / "11" / "params").mkdir(parents=True)
    (tmp_path / "checkpoints" / "12.orbax-checkpoint-tmp").mkdir()
    assert locate(tmp_path).params == locate(tmp_path / "checkpoints" / "10").params
    assert locate(tmp_path / "checkpoints" / "9").root == locate(tmp_path).root
    with pytest.raises(InputError, match="neither a complete params"):
        locate(tmp_path / "checkpoints" / "11")


def test_step_of_a_checkpoint_manager_is_read(tmp_path, params):
    (tmp_path / "config.json").write_text("{}")
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        saved = jax.tree.map(jax.numpy.asarray, params)
        step = {"step": jax.numpy.int32(3)}
        save = ocp.args.PyTreeSave
        manager.save(3, args=ocp.args.Composite(params=save(saved), run=save(step)))
    assert_same_bits(read_params(locate(tmp_path).params), params)


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        locate(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a checkpoint"):
        locate(tmp_path)
    with pytest.raises(InputError, match=r"config.json does not exist"):
        read_model_config(tmp_path)
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_model_config(tmp_path)
