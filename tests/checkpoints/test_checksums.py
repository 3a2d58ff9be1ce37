"""Damaged parameters are refused by every reader, even if the damaged data can be decoded."""

import json
import random
import shutil

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vxlpro_jax.checkpoints import checksums
from vxlpro_jax.checkpoints.array_store import open_leaves
from vxlpro_jax.checkpoints.checksums import part_sum, sealed
from vxlpro_jax.checkpoints.params import locate, read_leaf, read_params, write_params
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError

RNG = np.random.default_rng(0)
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.uint32)


def draw(shape, dtype=np.float32):
    return np.asarray(50 * RNG.standard_normal(shape)).astype(dtype)


def parts(shape):
    """Returns blocks that cover an array, split once along each axis."""
    if not shape:
        yield ()
        return
    cut = RNG.integers(shape[0] + 1)
    for rest in parts(shape[1:]):
        yield from ((slice(0, cut), *rest), (slice(cut, shape[0]), *rest))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (7, 1, 5), (0, 3), (3, 300, 500)])
def test_sums_of_parts_make_the_checksum(shape, dtype):
    array = draw(shape, dtype)
    whole = int(tree.checksums(jax.numpy.asarray(array)))
    assert part_sum(array, starts=(0,) * array.ndim, shape=shape) == whole
    total = sum(
        part_sum(array[index], starts=[axis.start for axis in index], shape=shape)
        for index in parts(shape)
    )
    assert total % 2**32 == whole


@pytest.fixture(scope="module")
def params():
    return {
        "embed": draw((700, 33), ml_dtypes.bfloat16),
        "layers": {"kernel": draw((6, 40, 24)), "bias": draw((6, 8), np.float16)},
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory, params):
    directory = tmp_path_factory.mktemp("model") / "params"
    write_params(directory, leaves=params)
    return directory


def read_by_blocks(directory):
    return jax.tree.map(
        lambda leaf: np.concatenate([block for _, block in leaf.blocks()]), open_leaves(directory)
    )


def read_backwards(directory):
    def read(leaf):
        rows = [leaf.read(row, row + 1) for row in reversed(range(leaf.shape[0]))]
        return np.concatenate(rows[::-1])

    return jax.tree.map(read, open_leaves(directory))


def read_one_by_one(directory):
    paths = tree.flatten(open_leaves(directory))
    return tree.unflatten({path: read_leaf(directory, path) for path in paths})


def read_to_a_device(directory):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        open_leaves(directory),
    )
    return jax.tree.map(np.asarray, read_params(directory, like=like))


def read_unstacked(directory):
    rows = read_params(directory, unstack="layers", dtype="float32")
    layers = [rows.pop(f"layers_{row}") for row in range(6)]
    return rows | {"layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}


READERS = (
    read_params,
    read_by_blocks,
    read_backwards,
    read_one_by_one,
    read_to_a_device,
    read_unstacked,
)


def assert_equal(found, params):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(a.dtype)), found, params)


@pytest.mark.parametrize("read", READERS)
def test_whole_folders_are_read(written, params, read):
    assert_equal(read(written), params)


def test_folders_without_checksums_are_read(written, params, tmp_path):
    shutil.copytree(written, tmp_path / "params")
    (tmp_path / "params" / checksums.FILE).unlink()
    for read in READERS:
        assert_equal(read(tmp_path / "params"), params)


def damage(folder, rng):
    """Flips a bit of a random file, or truncates it."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.stat().st_size))
    while file.is_dir():
        file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content))
    if rng.random() < 0.3:
        del content[place:]
    else:
        content[place] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_damaged_is_read(written, tmp_path, seed):
    rng = random.Random(seed)
    for number in range(5):
        folder = tmp_path / str(number)
        shutil.copytree(written, folder)
        damage(folder, rng)
        read = READERS[(5 * seed + number) % len(READERS)]
        with pytest.raises(InputError):
            read(folder)


@pytest.mark.parametrize("read", READERS)
def test_numbers_that_decode_but_were_not_saved(written, params, tmp_path, read):
    """The folder is complete, but one entry does not match its checksum."""
    other = jax.tree.map(np.copy, params)
    other["layers"]["kernel"][5, 39, 23] *= 2
    write_params(tmp_path / "params", leaves=other)
    content = json.loads((tmp_path / "params" / checksums.FILE).read_text())
    kept = json.loads((written / checksums.FILE).read_text())
    content = sealed({"arrays": kept["arrays"], "files": content["files"]})
    (tmp_path / "params" / checksums.FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match="layers/kernel is not what was saved"):
        read(tmp_path / "params")


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"arrays": {}, "digest": "0"}'])
def test_damaged_list_of_checksums(written, tmp_path, text):
    shutil.copytree(written, tmp_path / "params")
    (tmp_path / "params" / checksums.FILE).write_text(text)
    with pytest.raises(InputError, match=r"checksums.json is not what was saved"):
        read_params(tmp_path / "params")


@pytest.mark.parametrize("is_right", [True, False])
def test_steps_of_training_are_held_against_their_manifest(tmp_path, params, is_right):
    arrays = {
        f"params/{path}": {
            "shape": list(leaf.shape),
            "dtype": leaf.dtype.name,
            "checksum": part_sum(leaf, starts=(0,) * leaf.ndim, shape=leaf.shape) ^ (not is_right),
        }
        for path, leaf in tree.flatten(params).items()
    }
    (tmp_path / "config.json").write_text("{}")
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        save = ocp.args.PyTreeSave(jax.tree.map(jax.numpy.asarray, params))
        manifest = ocp.args.JsonSave(sealed({"arrays": arrays}))
        manager.save(3, args=ocp.args.Composite(params=save, manifest=manifest))
    directory = locate(tmp_path).params
    if is_right:
        assert_equal(read_params(directory), params)
        return
    for read in READERS:
        with pytest.raises(InputError, match="is not what was saved"):
            read(directory)


def test_files_beside_the_parameters_that_changed_are_refused_by_name(written, tmp_path):
    shutil.copytree(written, tmp_path / "params")
    (tmp_path / "config.json").write_text('{"rope_theta": 1e6}')
    (tmp_path / "tokenizer.json").write_text("{}")
    checksums.write_provenance(tmp_path, {"made_by": "a test"})
    locate(tmp_path)
    (tmp_path / "config.json").write_text('{"rope_theta": 1e7}')
    with pytest.raises(InputError, match=r"^config\.json in .* is not what was written there"):
        locate(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"config\.json") as caught:
        locate(tmp_path)
    assert "tokenizer.json" in str(caught.value)
    (tmp_path / "provenance.json").unlink()
    locate(tmp_path)
