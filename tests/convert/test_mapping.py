"""The table has each name of the release exactly once, and mismatches are reported."""

import json

import pytest

from checkpoints_convert import mapping
from checkpoints_convert.release import open_release
from vxlpro_jax.config.schema import PRESETS, ModelConfig
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError


def params_of(release):
    config = ModelConfig.from_release(json.loads((release / "config.json").read_text()))
    return mapping.to_params(open_release(release).tensors, config=config)


def test_names_and_shapes_are_those_of_the_release(helpers):
    params = abstract_params(ModelConfig.from_release(helpers.config))
    structs = mapping.torch_structs(params)
    assert {name: struct.shape for name, struct in structs.items()} == helpers.release_shapes()


def test_untied_head_is_the_only_difference(helpers):
    config = helpers.config | {"tie_word_embeddings": False}
    structs = mapping.torch_structs(abstract_params(ModelConfig.from_release(config)))
    assert structs.keys() - helpers.release_shapes().keys() == {"lm_head.weight"}
    assert structs["lm_head.weight"].shape == (41, 16)


def test_table_is_one_to_one():
    paths = [entry.path for entry in mapping.TABLE]
    names = [entry.torch for entry in mapping.TABLE]
    assert len(set(paths)) == len(paths)
    assert len(set(names)) == len(names)


def test_full_size_tree_has_the_released_names():
    params = mapping.param_shapes(PRESETS["3b"])
    structs = mapping.torch_structs(params)
    assert structs["model.layers.35.mlp.down_proj.weight"].shape == (2048, 11008)
    assert structs["model.sae.encoder.5.conv.weight"].shape == (1152, 1152, 3, 3, 3)
    assert len(structs) == 12 * 36 + 16 * 26 + 5 + 41 + 14 + 2


def test_parameters_have_the_models_structure(release, helpers):
    params = tree.flatten(params_of(release))
    expected = tree.flatten(abstract_params(ModelConfig.from_release(helpers.config)))
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in expected.items()}


def test_layers_are_stacked_in_numerical_order(tmp_path, helpers):
    config = helpers.config | {"num_hidden_layers": 12}
    tensors = helpers.random_tensors(helpers.release_shapes())
    for i in range(12):
        for name in [n for n in tensors if n.startswith("model.layers.0.")]:
            tensors[name.replace("layers.0.", f"layers.{i}.")] = tensors[name] * 0 + i
    helpers.write_release(tmp_path / "deep", tensors, config=config)
    scales = params_of(tmp_path / "deep")["decoder"]["layers"]["ln1"]["scale"].whole()
    assert scales[:, 0].astype(int).tolist() == list(range(12))


def test_every_bad_name_is_listed(tmp_path, helpers, tensors):
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.extra"] = tensors["model.sae.encoder.0.norm.bias"]
    tensors["model.text_mlp.0.weight"] = tensors["model.text_mlp.0.weight"][:, :3]
    helpers.write_release(tmp_path / "bad", tensors)
    with pytest.raises(InputError) as error:
        params_of(tmp_path / "bad")
    message = str(error.value)
    assert "missing: model.layers.1.mlp.up_proj.weight, model.norm.weight;" in message
    assert "unexpected: model.norm.extra;" in message
    assert "wrong shape: model.text_mlp.0.weight (16, 3) instead of (16, 16)" in message


def test_layers_of_different_dtypes_need_a_choice(tmp_path, helpers, tensors):
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].float()
    helpers.write_release(tmp_path / "mixed", tensors)
    with pytest.raises(InputError, match=r"mlp.up_proj.weight .*bfloat16, float32.*--dtype"):
        params_of(tmp_path / "mixed")


def test_other_parameters_are_refused():
    with pytest.raises(InputError, match="decoder/extra"):
        mapping.torch_structs({"decoder": {"extra": None}})
