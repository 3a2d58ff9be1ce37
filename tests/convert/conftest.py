"""Makes small release-format folders, with torch and by hand, with the release's names."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import torch

WIDTH, TOWER_MLP, TOWER_LAYERS = 32, 48, 3
DECODER, DECODER_MLP, KEYS, DECODER_LAYERS, VOCAB = 16, 24, 8, 2, 41

CONFIG = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava_qwen",
    "vocab_size": VOCAB,
    "hidden_size": DECODER,
    "intermediate_size": DECODER_MLP,
    "num_hidden_layers": DECODER_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "an_unknown_key": [1, "é"],
    "vision_config": {
        "hidden_size": WIDTH,
        "intermediate_size": TOWER_MLP,
        # This number includes the layer that the release deletes.
        "num_hidden_layers": TOWER_LAYERS + 1,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    },
}
DTYPES = {
    "BF16": (torch.bfloat16, ml_dtypes.bfloat16),
    "F16": (torch.float16, np.float16),
    "F32": (torch.float32, np.float32),
}


def tower_shapes(*, layers: int) -> dict:
    shapes = {
        "embeddings.patch_embedding.weight": (WIDTH, 3, 14, 14),
        "embeddings.patch_embedding.bias": (WIDTH,),
        "embeddings.position_embedding.weight": (16, WIDTH),
        "post_layernorm.weight": (WIDTH,),
        "post_layernorm.bias": (WIDTH,),
    }
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}.self_attn.{part}.weight"] = (WIDTH, WIDTH)
            shapes[f"{layer}.self_attn.{part}.bias"] = (WIDTH,)
        for norm in ("layer_norm1", "layer_norm2"):
            shapes[f"{layer}.{norm}.weight"] = shapes[f"{layer}.{norm}.bias"] = (WIDTH,)
        shapes[f"{layer}.mlp.fc1.weight"] = (TOWER_MLP, WIDTH)
        shapes[f"{layer}.mlp.fc1.bias"] = (TOWER_MLP,)
        shapes[f"{layer}.mlp.fc2.weight"] = (WIDTH, TOWER_MLP)
        shapes[f"{layer}.mlp.fc2.bias"] = (WIDTH,)
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def dts_shapes() -> dict:
    shapes = {"temporal_encoding": (4, WIDTH)}
    for i in (0, 3):
        shapes[f"encoder.{i}.norm.weight"] = shapes[f"encoder.{i}.norm.bias"] = (WIDTH,)
        for part in ("q", "k", "v", "proj_out"):
            shapes[f"encoder.{i}.{part}.weight"] = (WIDTH, WIDTH, 1, 1, 1)
            shapes[f"encoder.{i}.{part}.bias"] = (WIDTH,)
    for i in (1, 4):
        shapes[f"encoder.{i}.norm.weight"] = shapes[f"encoder.{i}.norm.bias"] = (WIDTH,)
        shapes[f"encoder.{i}.qkv.weight"] = (3 * WIDTH, WIDTH, 1)
        shapes[f"encoder.{i}.qkv.bias"] = (3 * WIDTH,)
        shapes[f"encoder.{i}.proj_out.weight"] = (WIDTH, WIDTH, 1)
        shapes[f"encoder.{i}.proj_out.bias"] = (WIDTH,)
        for part in ("k", "v"):
            shapes[f"encoder.{i}.relative_position_{part}.embeddings_table"] = (129, WIDTH)
    for i in (2, 5):
        shapes[f"encoder.{i}.conv.weight"] = (WIDTH, WIDTH, 3, 3, 3)
        shapes[f"encoder.{i}.conv.bias"] = (WIDTH,)
    return shapes


def connector_shapes() -> dict:
    shapes = {
        "mm_projector.0.weight": (DECODER, WIDTH),
        "mm_projector.2.weight": (DECODER, DECODER),
        "text_mlp.0.weight": (DECODER, DECODER),
    }
    for part in ("q", "k", "v", "out"):
        shapes[f"WindowTimeToTokenAttention.{part}_proj.weight"] = (DECODER, DECODER)
    biases = {name.replace(".weight", ".bias"): (DECODER,) for name in shapes}
    return {f"model.{name}": shape for name, shape in {**shapes, **biases}.items()}


def decoder_shapes(*, vocab: int = VOCAB) -> dict:
    shapes = {"model.embed_tokens.weight": (vocab, DECODER), "model.norm.weight": (DECODER,)}
    for i in range(DECODER_LAYERS):
        layer = f"model.layers.{i}"
        for part, out in (("q", DECODER), ("k", KEYS), ("v", KEYS)):
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (out, DECODER)
            shapes[f"{layer}.self_attn.{part}_proj.bias"] = (out,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (DECODER, DECODER)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (DECODER_MLP, DECODER)
        shapes[f"{layer}.mlp.up_proj.weight"] = (DECODER_MLP, DECODER)
        shapes[f"{layer}.mlp.down_proj.weight"] = (DECODER, DECODER_MLP)
        shapes[f"{layer}.input_layernorm.weight"] = (DECODER,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (DECODER,)
    return shapes


def release_shapes(*, vocab: int = VOCAB) -> dict:
    tower = tower_shapes(layers=TOWER_LAYERS)
    return {
        **decoder_shapes(vocab=vocab),
        **{f"model.vision_tower.vision_tower.{name}": shape for name, shape in tower.items()},
        **{f"model.sae.{name}": shape for name, shape in dts_shapes().items()},
        **connector_shapes(),
    }


def random_tensors(shapes: dict, *, dtype: str = "BF16") -> dict:
    """Returns random bits, which reveal any rounding; no cast makes their exponents infinite."""
    rng = np.random.default_rng(0)
    return {
        name: torch.from_numpy(rng.standard_normal(shape, np.float32)).to(DTYPES[dtype][0])
        for name, shape in shapes.items()
    }


def to_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write_safetensors(file, tensors: dict) -> None:
    header, data = {}, b""
    names = {dtype: name for name, (dtype, _) in DTYPES.items()}
    for name, tensor in tensors.items():
        begin, data = len(data), data + to_bytes(tensor)
        shape = list(tensor.shape)
        offsets = [begin, len(data)]
        header[name] = {"dtype": names[tensor.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(file) -> dict:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    assert header.pop("__metadata__") == {"format": "pt"}
    return {
        name: (t["dtype"], tuple(t["shape"]), data[slice(*t["data_offsets"])])
        for name, t in header.items()
    }


def write_indexed(folder, tensors: dict, *, files: int, suffix: str, write) -> None:
    names = list(tensors)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for i in range(files):
        file = f"{stem}-{i + 1:05}-of-{files:05}.{suffix}"
        part = {name: tensors[name] for name in names[i::files]}
        weight_map |= dict.fromkeys(part, file)
        write(folder / file, part)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def save_torch(file, tensors: dict) -> None:
    torch.save(tensors, file)


class Helpers:
    """Helpers of the tests in this folder."""

    config = CONFIG
    release_shapes = staticmethod(release_shapes)
    decoder_shapes = staticmethod(decoder_shapes)
    tower_shapes = staticmethod(tower_shapes)
    dts_shapes = staticmethod(dts_shapes)
    connector_shapes = staticmethod(connector_shapes)
    random_tensors = staticmethod(random_tensors)
    to_bytes = staticmethod(to_bytes)
    write_safetensors = staticmethod(write_safetensors)
    read_safetensors = staticmethod(read_safetensors)
    write_indexed = staticmethod(write_indexed)
    save_torch = staticmethod(save_torch)

    @staticmethod
    def write_release(folder, tensors: dict, *, config: dict = CONFIG, write=None) -> None:
        """Writes a release folder with one safetensors file, or with `write(folder, tensors)`."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False))
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        if write is None:
            write_safetensors(folder / "model.safetensors", tensors)
        else:
            write(folder, tensors)

    @staticmethod
    def read_release(folder) -> dict:
        """Reads all safetensors files of a folder: name -> (dtype, shape, bytes)."""
        tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= read_safetensors(file)
        return tensors

    @staticmethod
    def as_stored(tensors: dict) -> dict:
        """Returns tensors in the form of `read_release`."""
        names = {dtype: name for name, (dtype, _) in DTYPES.items()}
        return {k: (names[t.dtype], tuple(t.shape), to_bytes(t)) for k, t in tensors.items()}


@pytest.fixture
def helpers():
    return Helpers


@pytest.fixture
def tensors():
    return random_tensors(release_shapes())


@pytest.fixture
def release(tmp_path, tensors):
    Helpers.write_release(tmp_path / "release", tensors)
    return tmp_path / "release"
