"""A release-format folder: config.json, weights in one or more files, tokenizer files."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert import mapping, safetensors_io, torch_bin, torch_names
from vxlpro_jax.checkpoints.array_store import LazyLeaf
from vxlpro_jax.checkpoints.params import missing_folder, read_json
from vxlpro_jax.utils.errors import InputError

Reader = Callable[[Path], dict[str, LazyLeaf]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """The content of a folder; only headers have been read.

    Attributes:
        config: content of config.json.
        tensors: tensors by torch name.
        files: weight files and their index.
    """

    config: dict[str, Any]
    tensors: dict[str, LazyLeaf]
    files: tuple[Path, ...]


def open_release(folder: Path) -> Release:
    """Opens a folder of safetensors (preferred) or `.bin` files.

    Raises:
        InputError: config.json or the weights are missing, damaged, or name a tensor twice.
    """
    if not folder.is_dir():
        raise missing_folder(folder)
    if not (folder / "config.json").exists() and (folder / "adapter_config.json").exists():
        raise torch_names.explain_no_weights(folder)
    config = read_json(folder / "config.json")
    kinds = (
        (safetensors_io.read_tensors, safetensors_io.INDEX, "*.safetensors"),
        (torch_bin.read_tensors, "pytorch_model.bin.index.json", "pytorch_model*.bin"),
    )
    for read, index, pattern in kinds:
        if (folder / index).exists():
            tensors, files = _read_indexed(folder, index, read)
            tensors = torch_names.released(tensors, folder=folder)
            return Release(config=config, tensors=tensors, files=(folder / index, *files))
        if files := tuple(sorted(x for x in folder.glob(pattern) if x.is_file())):
            tensors = torch_names.released(_read_all(files, read), folder=folder)
            return Release(config=config, tensors=tensors, files=files)
    raise torch_names.explain_no_weights(folder)


def _read_indexed(folder: Path, index: str, read: Reader) -> tuple[dict, tuple[Path, ...]]:
    places = read_json(folder / index).get("weight_map")
    if not isinstance(places, dict) or not all(_is_file_name(name) for name in places.values()):
        raise InputError(f"{folder / index} has no weight_map from tensors to files beside it.")
    files = tuple(folder / name for name in sorted(set(places.values())))
    if absent := [file.name for file in files if not file.is_file()]:
        raise InputError(f"{folder} lacks {', '.join(absent)}, which its {index} names.")
    tensors = _read_all(files, read)
    if differ := sorted(places.keys() ^ tensors.keys()):
        raise InputError(f"{folder / index} and the files beside it differ in {', '.join(differ)}.")
    return tensors, files


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) is not None


def _read_all(files: tuple[Path, ...], read: Reader) -> dict[str, LazyLeaf]:
    tensors: dict[str, LazyLeaf] = {}
    for file in files:
        more = read(file)
        if twice := sorted(tensors.keys() & more.keys()):
            raise InputError(f"{file.parent} holds {', '.join(twice)} in more than one file.")
        tensors |= more
    return tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconciled:
    """Config and tensors that agree with each other.

    Attributes:
        config: content of config.json, with vocabulary and tying corrected to match the tensors.
        tensors: tensors, without the head if the decoder is tied.
        stores_tied_head: whether the folder stores a tied head nevertheless.
    """

    config: dict[str, Any]
    tensors: dict[str, LazyLeaf]
    stores_tied_head: bool


def reconcile(config: Mapping[str, Any], tensors: Mapping[str, LazyLeaf]) -> Reconciled:
    """Reconciles vocabulary and head, where config.json and the tensors may disagree.

    The embedding may have more rows than config.json says, and a tied head may or may not be
    stored. Without `tie_word_embeddings` in config.json, a decoder without a head is tied.

    Raises:
        InputError: config.json says that the head is tied, but the stored one differs; or the
            embedding is not a matrix.
    """
    config, tensors = dict(config), dict(tensors)
    embedding, head = tensors.get(mapping.EMBEDDING), tensors.get(mapping.HEAD)
    if embedding is not None and len(embedding.shape) != 2:
        raise InputError(f"{mapping.EMBEDDING} has the shape {embedding.shape}, not two axes.")
    if embedding is not None and embedding.shape[0] != config.get("vocab_size"):
        config["vocab_size"] = embedding.shape[0]
    if "tie_word_embeddings" not in config and head is None:
        config["tie_word_embeddings"] = True
    if head is None or not config.get("tie_word_embeddings"):
        return Reconciled(config=config, tensors=tensors, stores_tied_head=False)
    if embedding is None or not _same(head, embedding):
        raise InputError(
            f"{mapping.HEAD} differs from {mapping.EMBEDDING} although config.json says"
            " tie_word_embeddings: set that to false to keep both."
        )
    del tensors[mapping.HEAD]
    return Reconciled(config=config, tensors=tensors, stores_tied_head=True)


def _same(a: LazyLeaf, b: LazyLeaf) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    pairs = zip(a.blocks(), b.blocks(), strict=True)
    return all(np.array_equal(x.view(np.uint8), y.view(np.uint8)) for (_, x), (_, y) in pairs)


def config_text(config: Mapping[str, Any], *, original: Path) -> str:
    """Returns the text of config.json, byte for byte the original's if nothing changed."""
    text = original.read_text()
    return text if json.loads(text) == config else json.dumps(config, indent=2) + "\n"
