"""Compares YaRN with transformers' Qwen2."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vxlpro_jax.config.schema import PRESETS, ModelConfig, YarnConfig
from vxlpro_jax.models.qwen2 import Qwen2
from vxlpro_jax.ops.rope import rotate_heads, yarn_frequencies

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "max_position_embeddings": 64,
}
BLOCKS = [
    {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "yarn", "factor": 2.5},
    {"type": "yarn", "factor": 4.0, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False},
    {"type": "yarn", "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.5},
    {"type": "yarn", "factor": 1.0, "attention_factor": 1.3},
    {"rope_type": "default"},
]


def their_config(form):
    return transformers.Qwen2Config(**{**SIZES, **form}, attn_implementation="eager")


def forms(block):
    """Returns the block in the forms of transformers 4 and 5."""
    return [{"rope_scaling": block}, {"rope_parameters": {**block, "rope_theta": 1e4}}]


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("form", [0, 1])
def test_hidden_states_are_those_of_transformers(block, form):
    config = ModelConfig.from_release({**SIZES, **forms(block)[form]}).decoder
    torch.manual_seed(0)
    theirs = transformers.Qwen2Model(their_config(forms(block)[form])).float().eval()
    ids = np.random.default_rng(0).integers(0, 64, (1, 100))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).last_hidden_state.numpy()
    config = dataclasses.replace(config, scan_layers=False)
    ours = Qwen2(config, attention="xla")

    def run(decoder):
        positions = jnp.arange(ids.shape[1])[None]
        return decoder(decoder.embed(jnp.asarray(ids)), positions=positions)

    with jax.default_matmul_precision("highest"):
        found = ours.apply({"params": params_of(theirs)}, method=run)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def params_of(model):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    def dense(name):
        bias = {"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {}
        return {"kernel": state[f"{name}.weight"].T, **bias}

    def layer(name):
        attn = {part: dense(f"{name}.self_attn.{part}_proj") for part in ("q", "k", "v")}
        mlp = {part: state[f"{name}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down")}
        return {
            "ln1": {"scale": state[f"{name}.input_layernorm.weight"]},
            "ln2": {"scale": state[f"{name}.post_attention_layernorm.weight"]},
            "attn": {**attn, "out": dense(f"{name}.self_attn.o_proj")},
            "mlp": mlp,
        }

    layers = {f"layers_{i}": layer(f"layers.{i}") for i in range(SIZES["num_hidden_layers"])}
    embed = state["embed_tokens.weight"]
    return {"embed": embed, "norm": {"scale": state["norm.weight"]}, **layers}


@pytest.mark.parametrize(("head", "theta"), [(128, 1e6), (64, 1e4), (32, 5e3)])
@pytest.mark.parametrize("factor", [1.5, 4.0, 32.0])
def test_frequencies_at_full_size(head, theta, factor):
    theirs = transformers.Qwen2Config(
        hidden_size=head * 2,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": factor,
            "original_max_position_embeddings": 32_768,
        },
    )
    compute = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"]
    expected, scale = compute(theirs, torch.device("cpu"))
    yarn = YarnConfig(factor=factor)
    found = yarn_frequencies(head, theta=theta, yarn=yarn)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    np.testing.assert_allclose(yarn.scale, scale, rtol=1e-12)


def test_a_factor_of_one_changes_no_bit():
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, 16))
    positions = jnp.arange(5)[None] * 7000
    plain = rotate_heads(x, positions=positions, theta=1e6)
    off = rotate_heads(x, positions=positions, theta=1e6, yarn=PRESETS["3b"].decoder.yarn)
    np.testing.assert_array_equal(plain, off)
