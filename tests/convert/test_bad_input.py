"""A mistake ends a command with one sentence and exit code 2, and leaves no files behind."""

import json
import subprocess
import sys

import pytest

from checkpoints_convert import sizes, to_orbax, to_torch
from vxlpro_jax.utils.errors import InputError


def convert_fails(tmp_path, source, match):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=match):
        to_orbax.convert(source, tmp_path / "orbax")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_truncated_safetensors(tmp_path, release, cut):
    file = release / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    convert_fails(tmp_path, release, "model.safetensors is not a complete safetensors file")


@pytest.mark.parametrize("cut", [100, -100])
def test_truncated_bin(tmp_path, helpers, tensors, cut):
    helpers.write_release(
        tmp_path / "src",
        tensors,
        write=lambda folder, t: helpers.save_torch(folder / "pytorch_model.bin", t),
    )
    file = tmp_path / "src" / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:cut])
    convert_fails(tmp_path, tmp_path / "src", "pytorch_model.bin is truncated")


def test_code_in_a_pickle_is_not_run(tmp_path, helpers):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    helpers.write_release(
        tmp_path / "src",
        {"model.norm.weight": Trap()},
        write=lambda folder, t: helpers.save_torch(folder / "pytorch_model.bin", t),
    )
    convert_fails(tmp_path, tmp_path / "src", "cannot be read as a state dict")
    assert not (tmp_path / "sprung").exists()


def test_name_in_two_files(tmp_path, release, helpers, tensors):
    name = "model.norm.weight"
    helpers.write_safetensors(release / "more.safetensors", {name: tensors[name]})
    convert_fails(tmp_path, release, "model.norm.weight in more than one file")


def test_name_twice_in_one_header(tmp_path, release):
    file = release / "model.safetensors"
    content = file.read_bytes()
    # The text has the same length, so that nothing else changes.
    once = b'"model.layers.0.self_attn.q_proj.bias"'
    file.write_bytes(content.replace(b'"model.layers.0.self_attn.k_proj.bias"', once))
    convert_fails(tmp_path, release, "names model.layers.0.self_attn.q_proj.bias twice")


def test_shard_of_the_index_is_absent(tmp_path, helpers, tensors):
    def write(folder, tensors):
        helpers.write_indexed(
            folder, tensors, files=2, suffix="safetensors", write=helpers.write_safetensors
        )

    helpers.write_release(tmp_path / "src", tensors, write=write)
    (tmp_path / "src" / "model-00002-of-00002.safetensors").unlink()
    convert_fails(tmp_path, tmp_path / "src", "lacks model-00002-of-00002.safetensors")


def test_index_cannot_name_files_elsewhere(tmp_path, release):
    index = {"weight_map": {"model.norm.weight": "../release/model.safetensors"}}
    (release / "model.safetensors.index.json").write_text(json.dumps(index))
    convert_fails(tmp_path, release, "files beside it")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"hidden_size": 24},
            r"wrong shape: .*Attention.k_proj.bias \(16,\) instead of \(24,\).* and \d+ more",
        ),
        ({"num_hidden_layers": 3}, "missing: model.layers.2.input_layernorm.weight"),
        (
            {"vision_config": None},
            r"wrong shape: model.mm_projector.0.weight \(16, 32\) instead of \(16, 1152\)",
        ),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight"),
    ],
)
def test_config_of_another_model(tmp_path, helpers, tensors, change, match):
    helpers.write_release(tmp_path / "src", tensors, config=helpers.config | change)
    convert_fails(tmp_path, tmp_path / "src", match)


def test_head_that_is_not_tied_after_all(tmp_path, helpers, tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    helpers.write_release(tmp_path / "src", tensors)
    convert_fails(tmp_path, tmp_path / "src", "tie_word_embeddings: set that to false")


def test_folder_without_weights_or_config(tmp_path, release):
    (release / "model.safetensors").unlink()
    convert_fails(tmp_path, release, "has no weights")
    (release / "config.json").unlink()
    convert_fails(tmp_path, release, r"config.json does not exist")
    convert_fails(tmp_path, tmp_path / "nowhere", "nowhere does not exist")


def test_destination_is_not_overwritten(tmp_path, release):
    (tmp_path / "orbax").mkdir()
    convert_fails(tmp_path, release, "exists already")


def test_export_of_what_is_no_checkpoint(tmp_path, release):
    with pytest.raises(InputError, match="is not a checkpoint"):
        to_torch.convert(release, tmp_path / "back")
    to_orbax.convert(release, tmp_path / "orbax")
    config = json.loads((release / "config.json").read_text())
    config["num_hidden_layers"] = 5
    (tmp_path / "orbax" / "config.json").write_text(json.dumps(config))
    (tmp_path / "orbax" / "provenance.json").unlink()
    with pytest.raises(InputError, match=r"wrong shape: decoder/layers/attn/k/bias \(2, 8\)"):
        to_torch.convert(tmp_path / "orbax", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("size", ["5 apples", "0GB", "-1", "", "1.2.3GB"])
def test_shard_size_that_is_none(size):
    with pytest.raises(InputError, match="max_shard_size"):
        sizes.parse_size(size)


def test_shard_sizes():
    expected = {"5GB": 5 * 10**9, "1.5GiB": 3 * 2**29, "200mb": 2 * 10**8, "77": 77}
    assert {text: sizes.parse_size(text) for text in expected} == expected


@pytest.mark.slow
def test_command_exits_with_two(tmp_path, release):
    file = release / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    command = [sys.executable, "-m", "checkpoints_convert.torch_to_orbax"]
    arguments = ["--checkpoint", str(release), "--out", str(tmp_path / "orbax")]
    done = subprocess.run(command + arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
