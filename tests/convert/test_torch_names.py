"""Tests weights saved by other tools: names are cleaned up, and unsupported folders explained."""

import json

import pytest
import torch

from checkpoints_convert import to_orbax
from checkpoints_convert.release import open_release
from vxlpro_jax.checkpoints.params import locate
from vxlpro_jax.utils.errors import InputError


def fails(function, *words):
    with pytest.raises(InputError) as caught:
        function()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) <= 500
    assert "\n" not in message


def names_of(folder, helpers, tensors):
    helpers.write_release(folder, tensors)
    return open_release(folder).tensors.keys()


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod.", "module.module."]
)
def test_prefixes_of_wrappers_are_left_out(tmp_path, helpers, tensors, prefix):
    wrapped = {prefix + name: tensor for name, tensor in tensors.items()}
    assert names_of(tmp_path / "src", helpers, wrapped) == tensors.keys()


def test_compiled_layers_and_buffers(tmp_path, helpers, tensors):
    wrapped = {
        name.replace("model.layers.0.", "model.layers.0._orig_mod."): tensor
        for name, tensor in tensors.items()
    }
    wrapped["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(2)
    tower = "model.vision_tower.vision_tower.vision_model.embeddings.position_ids"
    wrapped[tower] = torch.zeros(1, 16)
    assert names_of(tmp_path / "src", helpers, wrapped) == tensors.keys()


def test_one_name_with_and_without_its_prefix(tmp_path, helpers, tensors):
    name = "model.norm.weight"
    tensors[f"module.{name}"] = tensors[name]
    helpers.write_release(tmp_path / "src", tensors)
    fails(lambda: open_release(tmp_path / "src"), name, "twice")


def test_lora_matrices_and_adapters_are_explained(tmp_path, helpers, tensors):
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 16)
    helpers.write_release(tmp_path / "both", tensors)
    fails(lambda: open_release(tmp_path / "both"), "LoRA", "merge_and_unload")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    fails(lambda: open_release(adapter), "LoRA adapter", "merge_and_unload")


@pytest.mark.parametrize(
    ("entry", "word"),
    [("global_step100", "zero_to_fp32"), ("checkpoints", "already"), ("__0_0.distcp", "torch")],
)
def test_folders_of_other_tools_are_explained(tmp_path, helpers, entry, word):
    helpers.write_release(tmp_path / "src", {}, write=lambda folder, tensors: None)
    (tmp_path / "src" / entry).mkdir()
    fails(lambda: open_release(tmp_path / "src"), word)


@pytest.mark.parametrize("call", [locate, lambda name: to_orbax.convert(name, "out")])
def test_a_hub_id_where_a_folder_is_wanted(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    name = "Qwen/Qwen2.5-3B-Instruct"
    fails(
        lambda: call(tmp_path.__class__(name)),
        f"hf download {name} --local-dir DIR",
        "checkpoints_convert.torch_to_orbax",
    )
    fails(lambda: call(tmp_path / "nowhere"), "nowhere does not exist")


def test_unknown_keys_are_named_in_the_report(tmp_path, release, capsys):
    to_orbax.convert(release, tmp_path / "orbax")
    assert "unknown keys, kept but without effect: an_unknown_key." in capsys.readouterr().out
    provenance = json.loads((tmp_path / "orbax" / "provenance.json").read_text())
    assert provenance["unknown_config_keys"] == ["an_unknown_key"]
    assert "an_unknown_key" in json.loads((tmp_path / "orbax" / "config.json").read_text())
