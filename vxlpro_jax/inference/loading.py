"""Loads a model folder or training folder onto one device."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vxlpro_jax.checkpoints.inference_config import read_inference_config
from vxlpro_jax.checkpoints.params import locate, read_json, read_params
from vxlpro_jax.config.schema import InferenceConfig, ModelConfig
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.data.video.images import DEFAULT_PINPOINTS
from vxlpro_jax.models.video_xl_pro import abstract_params
from vxlpro_jax.utils.devices import check_devices

# Stacked layers, which `without_scan` replaces by one branch per layer.
UNSTACKED = "decoder/layers"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model on one device.

    Attributes:
        params: nested dict of arrays.
        config: sizes of the model, and how its layers are stored in `params`.
        tokenizer: tokenizer of its language model.
        inference_config: default inference settings.
        release: content of its config.json.
    """

    params: dict[str, Any]
    config: ModelConfig
    tokenizer: Tokenizer
    inference_config: InferenceConfig = dataclasses.field(default_factory=InferenceConfig)
    release: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype:
        """Dtype that the model computes in."""
        return self.params["decoder"]["embed"].dtype

    @property
    def pinpoints(self) -> Any:
        """Tilings of pictures; see `images.parse_pinpoints`."""
        return self.release.get("image_grid_pinpoints") or DEFAULT_PINPOINTS


def load_model(directory: str | Path, *, dtype: str | None = None) -> LoadedModel:
    """Loads a model folder, a training folder or one step of the latter.

    Args:
        directory: model folder or training folder; see `checkpoints.params.locate`.
        dtype: type to compute in, `float32`, `bfloat16` or `float16`. None keeps the stored one,
            except on CPUs, which compute in float32 whatever the type and so are fastest with it.

    Raises:
        InputError: the folder is missing, damaged, or does not fit its config.json.
    """
    check_devices()
    located = locate(directory)
    release = read_json(located.root / "config.json")
    config = ModelConfig.from_release(release)
    tokenizer = Tokenizer.from_folder(str(located.root))
    tokenizer.check_fits(config.decoder.vocab_size)
    like, unstack = on_device(abstract_params(config)), None
    if jax.default_backend() == "cpu" and dtype in (None, "float32"):
        dtype, unstack, config = "float32", UNSTACKED, without_scan(config)
    return LoadedModel(
        params=read_params(located.params, like=like, dtype=dtype, unstack=unstack),
        config=config,
        tokenizer=tokenizer,
        inference_config=read_inference_config(located.root),
        release=release,
    )


def on_device(shapes: dict) -> dict:
    """Returns the tree of `jax.ShapeDtypeStruct` with every leaf placed on the first device."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)


def without_scan(config: ModelConfig) -> ModelConfig:
    """Returns the config with separate decoder layers, which saves the copy of a scan on a CPU."""
    decoder = dataclasses.replace(config.decoder, scan_layers=False)
    return dataclasses.replace(config, decoder=decoder)
