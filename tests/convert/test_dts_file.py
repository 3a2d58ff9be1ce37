"""The synthesizer of a stage-1 run is exported for the released code and read back."""

import json

import jax
import numpy as np
import pytest
import torch
from helpers import MICRO
from torch_reference.dts import Dts, to_groups

from checkpoints_convert import dts_file, mapping
from checkpoints_convert.orbax_to_torch import main
from checkpoints_convert.to_torch import convert_dts
from vxlpro_jax.checkpoints.array_store import as_lazy
from vxlpro_jax.checkpoints.params import write_params
from vxlpro_jax.config.schema import RecotConfig
from vxlpro_jax.models import recot
from vxlpro_jax.utils.errors import InputError

OPTIONS = RecotConfig(decoder_width=8, decoder_depth=1, decoder_heads=2)


@pytest.fixture(scope="module")
def params():
    """Returns parameters without zeros; the temporal attention is initialised with zeros."""
    init = jax.jit(lambda key: recot.init_params(MICRO, options=OPTIONS, key=key))
    rng = np.random.default_rng(0)

    def moved(x):
        return np.asarray(x) + 0.05 * rng.standard_normal(x.shape).astype(np.float32)

    return jax.tree.map(moved, init(jax.random.key(0)))


@pytest.fixture(scope="module")
def stage1(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage1")
    write_params(folder / "params", leaves=params)
    (folder / "config.json").write_text(json.dumps(MICRO.to_release()))
    return folder


def load(file):
    if file.suffix == ".pth":
        return torch.load(file, weights_only=True)
    return {
        name.removeprefix(mapping.DTS): torch.from_numpy(leaf.whole().copy())
        for name, leaf in dts_file.read(file).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_released_module_computes_the_same(stage1, params, tmp_path, suffix):
    file = tmp_path / f"dts{suffix}"
    main(["--part", "dts", "--checkpoint", str(stage1), "--out", str(file)])
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    module = Dts(MICRO.vision.width)
    module.load_state_dict(load(file), strict=True)
    features = np.random.default_rng(1).standard_normal((2, 4, 64, MICRO.vision.width))
    features = features.astype(np.float32)
    frames_first = torch.from_numpy(features).transpose(2, 3).reshape(8, -1, 8, 8)
    with torch.inference_mode():
        theirs = module(to_groups(frames_first, layout="released"))[:, :, 0].flatten(2)
    model = recot.Recot(MICRO, OPTIONS)
    ours = jax.jit(lambda p, x: model.apply({"params": p}, x, method="compress"))(params, features)
    np.testing.assert_allclose(ours, theirs.transpose(1, 2), atol=1e-4)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip_is_bit_exact(stage1, params, tmp_path, suffix):
    file = tmp_path / f"dts{suffix}"
    convert_dts(stage1, file)
    shapes = mapping.param_shapes(MICRO)
    others = {
        name: np.zeros(struct.shape, np.float32)
        for name, struct in mapping.torch_structs(shapes).items()
    }
    leaves = {name: as_lazy(array) for name, array in others.items()}
    back = mapping.to_params(leaves | dts_file.read(file), config=MICRO)["dts"]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.whole(), b), back, params["dts"])


@pytest.mark.parametrize(
    ("name", "match"),
    [("dts.npz", "one of the suffixes .safetensors, .pth"), ("there.pth", "exists already")],
)
def test_bad_destination(stage1, tmp_path, name, match):
    (tmp_path / "there.pth").touch()
    with pytest.raises(InputError, match=match):
        convert_dts(stage1, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["there.pth"]


def test_folder_without_a_synthesizer(params, tmp_path):
    write_params(tmp_path / "params", leaves={"vision": params["vision"]})
    (tmp_path / "config.json").write_text(json.dumps(MICRO.to_release()))
    with pytest.raises(InputError, match=r"The DTS of .* does not fit its config.json"):
        convert_dts(tmp_path, tmp_path / "dts.pth")


def test_layout_that_the_released_code_does_not_feed(params, tmp_path):
    write_params(tmp_path / "params", leaves=params)
    config = MICRO.to_release() | {"dts_layout": "temporal"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="trained with layout 'temporal'"):
        convert_dts(tmp_path, tmp_path / "dts.pth")


def test_shard_size_of_one_file(stage1, tmp_path):
    arguments = ["--part", "dts", "--checkpoint", str(stage1), "--out", str(tmp_path / "dts.pth")]
    with pytest.raises(InputError, match="--max_shard_size does nothing with --part"):
        main([*arguments, "--max_shard_size", "1GB"])
