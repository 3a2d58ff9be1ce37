"""Converts names and folders of weights that other tools wrote to those of the release."""

import re
from collections.abc import Mapping
from pathlib import Path

from vxlpro_jax.checkpoints.array_store import LazyLeaf
from vxlpro_jax.utils.errors import InputError

# Prefixes that torch.compile, DistributedDataParallel and PEFT add to names.
_COMPILED = re.compile(r"(^|(?<=\.))_orig_mod\.")
_WRAPPERS = re.compile(r"^(module\.|base_model\.model\.)+")
# Buffers that torch recomputes and old versions stored.
_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|(embeddings\.)?position_ids)$")
_ADAPTERS = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer)\.")

_MERGE = (
    "merge it into its base model first (`PeftModel.from_pretrained(base, ADAPTER)"
    ".merge_and_unload().save_pretrained(DIR)`), and name that folder"
)


def released(tensors: Mapping[str, LazyLeaf], *, folder: Path) -> dict[str, LazyLeaf]:
    """Returns the tensors without wrapper prefixes and without buffers.

    Raises:
        InputError: there are LoRA matrices among them, or two names become equal.
    """
    if any(_ADAPTERS.search(name) for name in tensors):
        raise InputError(f"{folder} holds LoRA matrices beside its weights: {_MERGE}.")
    renamed: dict[str, LazyLeaf] = {}
    for name, leaf in tensors.items():
        plain = _WRAPPERS.sub("", _COMPILED.sub("", name))
        if _BUFFERS.search(plain):
            continue
        if plain in renamed:
            raise InputError(f"{folder} holds {plain} twice, once as {name}.")
        renamed[plain] = leaf
    return renamed


def explain_no_weights(folder: Path) -> InputError:
    """Makes the error for a folder without release-format weights, which names what it contains."""
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names:
        return InputError(f"{folder} is a LoRA adapter: {_MERGE}.")
    if "zero_to_fp32.py" in names or any(re.fullmatch(r"global_step\d+", x) for x in names):
        return InputError(
            f"{folder} is a DeepSpeed checkpoint: first make one file of it, beside a config.json,"
            " with `python zero_to_fp32.py . pytorch_model.bin` in that folder."
        )
    if any(name.endswith(".distcp") for name in names):
        return InputError(
            f"{folder} is a distributed torch checkpoint: make one file of it first with `python -m"
            f" torch.distributed.checkpoint.format_utils dcp_to_torch {folder} pytorch_model.bin`."
        )
    if (folder / "params").is_dir() or (folder / "checkpoints").is_dir():
        return InputError(
            f"{folder} is a model folder or training folder already: it needs no conversion."
        )
    return InputError(f"{folder} has no weights: neither *.safetensors nor pytorch_model*.bin.")
