"""torch -> orbax -> torch gives the same names, dtypes and bits for every form of folder."""

import functools
import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch

from checkpoints_convert import orbax_to_torch, to_orbax, to_torch
from vxlpro_jax.checkpoints.inference_config import (
    read_inference_config,
    write_inference_config,
)
from vxlpro_jax.checkpoints.params import params_metadata, read_leaf, read_model_config
from vxlpro_jax.config.schema import InferenceConfig
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError


def one_file(helpers):
    return None


def sharded(helpers):
    write = helpers.write_safetensors
    return functools.partial(helpers.write_indexed, files=3, suffix="safetensors", write=write)


def one_bin(helpers):
    return lambda folder, tensors: helpers.save_torch(folder / "pytorch_model.bin", tensors)


def sharded_bin(helpers):
    write = helpers.save_torch
    return functools.partial(helpers.write_indexed, files=2, suffix="bin", write=write)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "dtype", "rows", "head"),
    [
        (one_file, "BF16", 41, "tied"),
        (one_file, "F32", 42, "tied"),
        (sharded, "F16", 41, "untied"),
        (sharded, "BF16", 42, "stored though tied"),
        (one_bin, "BF16", 42, "stored though tied"),
        (sharded_bin, "F16", 41, "untied"),
    ],
)
def test_bits_survive(tmp_path, helpers, layout, dtype, rows, head):
    shapes = helpers.release_shapes(vocab=rows)
    if head == "untied":
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    tensors = helpers.random_tensors(shapes, dtype=dtype)
    if head == "stored though tied":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    config = helpers.config | {"tie_word_embeddings": head != "untied"}
    helpers.write_release(tmp_path / "src", tensors, config=config, write=layout(helpers))

    to_orbax.convert(tmp_path / "src", tmp_path / "orbax")
    to_torch.convert(tmp_path / "orbax", tmp_path / "back")

    assert helpers.read_release(tmp_path / "back") == helpers.as_stored(tensors)
    sizes = read_model_config(tmp_path / "orbax").decoder
    assert (sizes.vocab_size, sizes.tied_head) == (rows, head != "untied")


def test_how_the_model_is_asked_travels_along(tmp_path, release):
    wanted = InferenceConfig(max_frames=8, fps=0.5, keep_ratio=1.0)
    write_inference_config(release, wanted)
    to_orbax.convert(release, tmp_path / "orbax")
    to_torch.convert(tmp_path / "orbax", tmp_path / "back")
    assert read_inference_config(tmp_path / "orbax") == wanted
    assert read_inference_config(tmp_path / "back") == wanted


def test_small_files_travel_byte_for_byte(tmp_path, release):
    (release / "merges.txt").write_text("a b\n")
    (release / "training_args.bin").write_bytes(b"not ours")
    to_orbax.convert(release, tmp_path / "orbax")
    to_torch.convert(tmp_path / "orbax", tmp_path / "back")
    small = {"config.json", "tokenizer.json", "merges.txt"}
    assert {p.name for p in (tmp_path / "orbax").iterdir()} == {*small, "params", "provenance.json"}
    assert {p.name for p in (tmp_path / "back").iterdir()} == {*small, "model.safetensors"}
    for name in small:
        assert (tmp_path / "back" / name).read_bytes() == (release / name).read_bytes()


def test_unstated_tying_follows_the_head(tmp_path, helpers, tensors):
    config = {k: v for k, v in helpers.config.items() if k != "tie_word_embeddings"}
    helpers.write_release(tmp_path / "src", tensors, config=config)
    to_orbax.convert(tmp_path / "src", tmp_path / "orbax")
    assert read_model_config(tmp_path / "orbax").decoder.tied_head


def test_provenance_names_sources(tmp_path, release):
    to_orbax.convert(release, tmp_path / "orbax")
    provenance = json.loads((tmp_path / "orbax" / "provenance.json").read_text())
    sources = {source["name"]: source for source in provenance["sources"]}
    assert sources.keys() == {"model.safetensors", "config.json"}
    assert len(sources["model.safetensors"]["sha256"]) == 64
    assert provenance["source_dtypes"] == "bfloat16"
    assert {"jax", "orbax-checkpoint", "vxlpro_jax"} <= provenance["versions"].keys()


def test_stock_orbax_restores_it(tmp_path, release, tensors):
    to_orbax.convert(release, tmp_path / "orbax")
    restored = tree.flatten(ocp.PyTreeCheckpointer().restore(tmp_path / "orbax" / "params"))
    name = "model.layers.1.self_attn.k_proj.weight"
    kernel = restored["decoder/layers/attn/k/kernel"]
    expected = tensors[name].float().numpy().T
    np.testing.assert_array_equal(kernel[1].astype(np.float32), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtype_casts_every_tensor(tmp_path, release, tensors, dtype):
    to_orbax.convert(release, tmp_path / "orbax", dtype=dtype)
    structs = tree.flatten(params_metadata(tmp_path / "orbax" / "params")).values()
    assert {str(struct.dtype) for struct in structs} == {dtype}
    stored = read_leaf(tmp_path / "orbax" / "params", "decoder/embed")
    expected = tensors["model.embed_tokens.weight"].to(getattr(torch, dtype)).numpy()
    np.testing.assert_array_equal(stored, expected)
    config = json.loads((tmp_path / "orbax" / "config.json").read_text())
    assert config["torch_dtype"] == dtype


def test_cast_does_not_make_infinities(tmp_path, helpers, tensors):
    tensors["model.norm.weight"][0] = 1e30
    helpers.write_release(tmp_path / "src", tensors)
    with pytest.raises(InputError, match="too large for float16"):
        to_orbax.convert(tmp_path / "src", tmp_path / "orbax", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_leaves_keep_their_own_dtypes(tmp_path, helpers, tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float() + 1e-6
    helpers.write_release(tmp_path / "src", tensors)
    to_orbax.convert(tmp_path / "src", tmp_path / "orbax")
    to_torch.convert(tmp_path / "orbax", tmp_path / "back")
    assert helpers.read_release(tmp_path / "back") == helpers.as_stored(tensors)


def test_views_in_a_pickle_are_resolved(tmp_path, helpers, tensors):
    name = "model.mm_projector.0.weight"
    tensors[name] = tensors[name].t().contiguous().t()
    tensors["model.norm.weight"] = torch.cat([tensors["model.norm.weight"]] * 3)[16:32]
    helpers.write_release(tmp_path / "src", tensors, write=one_bin(helpers))
    to_orbax.convert(tmp_path / "src", tmp_path / "orbax")
    to_torch.convert(tmp_path / "orbax", tmp_path / "back")
    assert helpers.read_release(tmp_path / "back") == helpers.as_stored(tensors)


@pytest.mark.slow
def test_export_shards_as_hugging_face_does(tmp_path, release, tensors, helpers):
    to_orbax.convert(release, tmp_path / "orbax")
    back = tmp_path / "back"
    arguments = {"--checkpoint": tmp_path / "orbax", "--out": back, "--max_shard_size": "100KB"}
    orbax_to_torch.main([str(word) for pair in arguments.items() for word in pair])
    index = json.loads((back / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in back.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    for file in files:
        stored = helpers.read_safetensors(back / file)
        assert {index["weight_map"][name] for name in stored} == {file}
        assert sum(len(data) for _, _, data in stored.values()) <= 100_000 or len(stored) == 1
    # The exported folder can be converted again.
    to_orbax.convert(back, tmp_path / "again")
    to_torch.convert(tmp_path / "again", tmp_path / "back2")
    assert helpers.read_release(tmp_path / "back2") == helpers.as_stored(tensors)


def test_training_folder_exports_its_newest_step(tmp_path, release, helpers, tensors):
    to_orbax.convert(release, tmp_path / "orbax")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tmp_path / "orbax" / name, run / name)
    for step in ("9", "10"):
        shutil.copytree(tmp_path / "orbax" / "params", run / "checkpoints" / step / "params")
    shutil.rmtree(run / "checkpoints" / "9" / "params" / "d")
    to_torch.convert(run, tmp_path / "back")
    assert helpers.read_release(tmp_path / "back") == helpers.as_stored(tensors)
