"""A model folder is assembled from stock parts and checked tensor by tensor after export."""

import json
import shutil

import numpy as np
import pytest
import torch

from checkpoints_convert import stock_parts, to_torch
from vxlpro_jax.checkpoints.params import read_model_config
from vxlpro_jax.utils.errors import InputError

TOWER = "model.vision_tower.vision_tower."


@pytest.fixture
def parts(tmp_path, helpers):
    """Returns folders in the form of Hugging Face, and their tensors."""
    decoder = helpers.random_tensors(helpers.decoder_shapes())
    vision = helpers.random_tensors(
        {
            **helpers.tower_shapes(layers=4),
            "vision_model.head.probe": (1, 1, 32),
            "text_model.encoder.layers.0.mlp.fc1.weight": (3, 5),
            "logit_scale": (),
            "logit_bias": (1,),
        },
        dtype="F32",
    )
    dts = helpers.random_tensors(helpers.dts_shapes(), dtype="F32")
    language = {k: v for k, v in helpers.config.items() if k != "vision_config"}
    language |= {"model_type": "qwen2", "eos_token_id": 7}
    images = {"model_type": "siglip", "vision_config": helpers.config["vision_config"]}
    helpers.write_release(tmp_path / "qwen", decoder, config=language)
    helpers.write_release(tmp_path / "siglip", vision, config=images)
    torch.save(dts, tmp_path / "dts.pth")
    return {"decoder": decoder, "vision": vision, "dts": dts}


def assembled(tmp_path, helpers, *, name="model", **options):
    model, back = tmp_path / name, tmp_path / f"{name}-back"
    stock_parts.assemble(model, decoder=tmp_path / "qwen", vision=tmp_path / "siglip", **options)
    to_torch.convert(model, back)
    return helpers.read_release(back)


def values(stored):
    dtype, shape, data = stored
    assert dtype == "BF16"
    return torch.frombuffer(bytearray(data), dtype=torch.bfloat16).float().numpy().reshape(shape)


@pytest.mark.slow
def test_parts_are_taken_over(tmp_path, helpers, parts):
    result = assembled(tmp_path, helpers, dts=tmp_path / "dts.pth")
    assert {name: shape for name, (_, shape, _) in result.items()} == helpers.release_shapes()
    expected = dict(parts["decoder"])
    expected |= {"model.sae." + name: t.bfloat16() for name, t in parts["dts"].items()}
    expected |= {
        TOWER + name: tensor.bfloat16()
        for name, tensor in parts["vision"].items()
        if TOWER + name in helpers.release_shapes()
    }
    assert TOWER + "vision_model.encoder.layers.2.layer_norm1.bias" in expected
    assert TOWER + "vision_model.encoder.layers.3.layer_norm1.bias" not in expected
    assert {name: result[name] for name in expected} == helpers.as_stored(expected)


@pytest.mark.slow
def test_folder_is_a_model(tmp_path, helpers, parts):
    assembled(tmp_path, helpers)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == "llava_qwen"
    assert config["eos_token_id"] == 7
    assert config["vision_config"]["num_hidden_layers"] == 4
    assert read_model_config(tmp_path / "model").vision.depth == 3
    assert (tmp_path / "model" / "tokenizer.json").exists()
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["seed"] == 0


@pytest.mark.slow
def test_the_rest_starts_as_in_the_release(tmp_path, helpers, parts):
    result = assembled(tmp_path, helpers)
    for name in ("qkv.weight", "qkv.bias", "proj_out.weight", "proj_out.bias"):
        assert not values(result[f"model.sae.encoder.4.{name}"]).any()
    assert (values(result["model.sae.encoder.0.norm.weight"]) == 1).all()
    assert not values(result["model.sae.encoder.1.norm.bias"]).any()
    bounds = {
        "model.mm_projector.0.weight": 32**-0.5,
        "model.mm_projector.0.bias": 32**-0.5,
        "model.mm_projector.2.bias": 16**-0.5,
        "model.text_mlp.0.weight": 16**-0.5,
        "model.WindowTimeToTokenAttention.v_proj.weight": 16**-0.5,
        "model.sae.encoder.3.q.weight": 32**-0.5,
        "model.sae.encoder.5.conv.weight": (32 * 27) ** -0.5,
        "model.sae.encoder.5.conv.bias": (32 * 27) ** -0.5,
        "model.sae.encoder.1.relative_position_k.embeddings_table": (6 / (129 + 32)) ** 0.5,
    }
    for name, bound in bounds.items():
        drawn = values(result[name])
        assert np.abs(drawn).max() <= bound * 1.01, name
        # The largest of n uniform draws is this close to the bound in all but one of 10,000 cases.
        assert np.abs(drawn).max() >= bound * (1e-4 ** (1 / drawn.size)) * 0.99, name
        assert abs(drawn.mean()) < 4 * bound / (3 * drawn.size) ** 0.5, name
    encoding = values(result["model.sae.temporal_encoding"])
    assert 0.7 < encoding.std() < 1.3


@pytest.mark.slow
def test_seed_decides_and_the_parts_given_do_not(tmp_path, helpers, parts):
    name = "model.text_mlp.0.weight"

    def draw(folder, **options):
        return values(assembled(tmp_path, helpers, name=folder, **options)[name])

    first = draw("first", seed=3)
    np.testing.assert_array_equal(first, draw("given", seed=3, dts=tmp_path / "dts.pth"))
    assert (first != draw("other", seed=4)).mean() > 0.99


@pytest.mark.slow
def test_prefixed_dts(tmp_path, helpers, parts):
    prefixed = {f"module.sae.{name}": tensor for name, tensor in parts["dts"].items()}
    torch.save({"state_dict": prefixed}, tmp_path / "dts.pth")
    result = assembled(tmp_path, helpers, dts=tmp_path / "dts.pth")
    encoding = parts["dts"]["temporal_encoding"].bfloat16()
    assert result["model.sae.temporal_encoding"][2] == helpers.to_bytes(encoding)


@pytest.mark.slow
def test_vision_folder_of_the_tower_alone(tmp_path, helpers, parts):
    config = helpers.config["vision_config"] | {"model_type": "siglip_vision_model"}
    (tmp_path / "siglip" / "config.json").write_text(json.dumps(config))
    assert len(assembled(tmp_path, helpers)) == len(helpers.release_shapes())


@pytest.mark.slow
def test_incomplete_parts_are_named(tmp_path, helpers, parts):
    def fails(match, **options):
        with pytest.raises(InputError, match=match):
            assembled(tmp_path, helpers, **options)
        assert not (tmp_path / "model").exists()

    del parts["dts"]["encoder.2.conv.bias"]
    parts["dts"]["encoder.9.bias"] = parts["dts"]["encoder.0.q.bias"]
    torch.save(parts["dts"], tmp_path / "dts.pth")
    fails(
        r"missing: model.sae.encoder.2.conv.bias; unexpected: model.sae.encoder.9.bias",
        dts=tmp_path / "dts.pth",
    )
    torch.save({"a": torch.zeros(1)}, tmp_path / "dts.pth")
    fails("not a DTS state dict", dts=tmp_path / "dts.pth")
    fails("nothing.pth does not exist", dts=tmp_path / "nothing.pth")
    del parts["vision"]["vision_model.encoder.layers.1.mlp.fc1.bias"]
    helpers.write_safetensors(tmp_path / "siglip" / "model.safetensors", parts["vision"])
    fails("missing: .*encoder.layers.1.mlp.fc1.bias")
    shutil.copytree(tmp_path / "siglip", tmp_path / "swapped")
    shutil.rmtree(tmp_path / "qwen")
    (tmp_path / "swapped").rename(tmp_path / "qwen")
    fails("is not a Qwen2.5 folder")


@pytest.mark.slow
def test_parts_saved_by_transformers_5(tmp_path, helpers, parts):
    expected = assembled(tmp_path, helpers, name="before")
    tower = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in parts["vision"].items()
        if name.startswith("vision_model.")
    }
    helpers.write_safetensors(tmp_path / "siglip" / "model.safetensors", tower)
    images = helpers.config["vision_config"] | {
        "model_type": "siglip_vision_model",
        "dtype": "float32",
        "hidden_act": "gelu_pytorch_tanh",
        "vision_use_head": True,
    }
    (tmp_path / "siglip" / "config.json").write_text(json.dumps(images))
    language = json.loads((tmp_path / "qwen" / "config.json").read_text())
    language["rope_parameters"] = {"rope_theta": language.pop("rope_theta"), "rope_type": "default"}
    language |= {"layer_types": ["full_attention"] * 2, "dtype": "bfloat16", "bos_token_id": None}
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(language))
    assert assembled(tmp_path, helpers, name="after") == expected
    config = json.loads((tmp_path / "after" / "config.json").read_text())
    assert config["model_type"] == "llava_qwen"
    assert config["rope_theta"] == 1e6
    assert config["layer_types"] == ["full_attention"] * 2
    assert "dtype" not in config
