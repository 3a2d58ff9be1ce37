"""Assembles a model folder for training from stock parts.

The decoder is Qwen2.5-3B-Instruct and the vision tower SigLIP-so400m, both as Hugging Face folders;
the Dynamic Token Synthesizer may come from its published state dict. All other parts are
initialised as in the release.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from checkpoints_convert import dts_file, mapping
from checkpoints_convert.casting import cast
from checkpoints_convert.model_folder import dtype_names, write_model
from checkpoints_convert.release import open_release, reconcile
from vxlpro_jax.checkpoints.array_store import LazyLeaf, as_lazy
from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.models.video_xl_pro import init_params
from vxlpro_jax.utils.errors import InputError

_TOWER = "vision_model."
# Keys of a decoder's config.json that describe only itself.
_IDENTITY = ("architectures", "model_type", "auto_map", "_name_or_path", "dtype")
# Parts of a stock SigLIP that Video-XL-Pro does not have.
_NOT_TOWER = r"^(text_model\.|vision_model\.head\.|logit_)|\.position_ids$"


def assemble(
    destination: Path, *, decoder: Path, vision: Path, dts: Path | None = None, seed: int = 0
) -> None:
    """Makes the model folder `destination`, in the decoder's dtype.

    Args:
        destination: path that does not exist yet.
        decoder: Qwen2.5 folder; its tokenizer files are copied.
        vision: SigLIP folder; its last layer and its text tower are left out.
        dts: state dict (`torch.save` or safetensors) of the synthesizer, or None for a fresh one.
        seed: seed of all random initial values.

    Raises:
        InputError: a part is incomplete, damaged or of other sizes; or the destination exists.
    """
    language, images = open_release(decoder), open_release(vision)
    found = reconcile(language.config, language.tensors)
    if mapping.EMBEDDING not in found.tensors:
        raise InputError(f"{decoder} is not a Qwen2.5 folder: it has no {mapping.EMBEDDING}.")
    tower_config = images.config.get("vision_config", images.config)
    sizes = ModelConfig.from_release(found.config | {"vision_config": tower_config})
    parts = {
        "decoder": found.tensors,
        "vision": _tower(images.tensors, depth=sizes.vision.depth),
        "dts": dts_file.read(dts) if dts else _fresh(sizes, parts=("dts",), seed=seed),
        "connectors": _fresh(sizes, parts=("projector", "selector"), seed=seed),
    }
    dtype = found.tensors[mapping.EMBEDDING].dtype
    tensors = {name: cast(leaf, dtype) for part in parts.values() for name, leaf in part.items()}
    write_model(
        destination,
        tensors=tensors,
        config_text=_config_text(found.config, sizes, dtype=str(dtype)),
        tokenizer_from=decoder,
        sources=(*language.files, *images.files, *([dts] if dts else [])),
        facts={
            "made_by": "assemble",
            "seed": seed,
            "dtype": str(dtype),
            "source_dtypes": {part: dtype_names(leaves) for part, leaves in parts.items()},
            "stores_tied_head": found.stores_tied_head,
        },
    )


def _tower(tensors: Mapping[str, LazyLeaf], *, depth: int) -> dict[str, LazyLeaf]:
    """Renames the tower as in the release, which drops the layer after the first `depth`."""
    if not any(name.startswith(_TOWER) for name in tensors):  # transformers 5 saves it like this.
        tensors = {_TOWER + name: leaf for name, leaf in tensors.items()}
    unused = re.compile(rf"{_NOT_TOWER}|\.encoder\.layers\.{depth}\.")
    return {mapping.TOWER + name: leaf for name, leaf in tensors.items() if not unused.search(name)}


def _fresh(config: ModelConfig, *, parts: tuple[str, ...], seed: int) -> dict[str, LazyLeaf]:
    """Returns tensors of some parts as in a newly initialised model."""

    # Compiled, so that only these parts are drawn.
    @jax.jit
    def draw(key):
        params = init_params(config, key=key)
        return {part: params[part] for part in parts}

    drawn = jax.tree.map(as_lazy, draw(jax.random.key(seed)))
    arrays = mapping.to_torch(mapping.param_shapes(config) | drawn, parts=parts)
    return {name: as_lazy(array) for name, _, array in arrays}


def _config_text(decoder: Mapping[str, Any], sizes: ModelConfig, *, dtype: str) -> str:
    kept = {key: value for key, value in decoder.items() if key not in _IDENTITY}
    return json.dumps(sizes.to_release(kept) | {"torch_dtype": dtype}, indent=2) + "\n"
