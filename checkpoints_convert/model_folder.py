"""Writes a model folder: parameters, config.json, tokenizer files and provenance.json."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import vxlpro_jax
from checkpoints_convert import folders, mapping, progress
from vxlpro_jax.checkpoints.array_store import LazyLeaf, write_params
from vxlpro_jax.checkpoints.checksums import write_provenance
from vxlpro_jax.checkpoints.inference_config import copy_inference_config
from vxlpro_jax.checkpoints.params import copy_code, copy_tokenizer
from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.utils import tree


def write_model(
    destination: Path,
    *,
    tensors: Mapping[str, LazyLeaf],
    config_text: str,
    tokenizer_from: Path,
    sources: Iterable[Path],
    facts: Mapping[str, Any],
) -> None:
    """Writes a model folder, complete or not at all.

    Args:
        destination: path that does not exist yet.
        tensors: tensors by torch name, exactly those of the model.
        config_text: content of config.json, in release format.
        tokenizer_from: folder of the tokenizer files, and of an inference config if it has one.
        sources: files to name and hash in provenance.json.
        facts: further content of provenance.json.

    Raises:
        InputError: the tensors do not fit the config, or the destination exists.
    """
    params = mapping.to_params(tensors, config=ModelConfig.from_release(json.loads(config_text)))
    needed_bytes = folders.total_bytes(tensors.values())
    with folders.new_folder(destination, needed_bytes=needed_bytes) as folder:
        provenance = {
            **facts,
            "sources": [folders.fingerprint(file) for file in sources],
            "versions": _versions(),
        }
        _write_params(folder / "params", tree.flatten(params))
        copy_tokenizer(tokenizer_from, folder)
        copy_code(tokenizer_from, folder)
        copy_inference_config(tokenizer_from, folder)
        (folder / "config.json").write_text(config_text)
        write_provenance(folder, provenance)


def dtype_names(tensors: Mapping[str, LazyLeaf]) -> str | dict[str, str]:
    """Returns the dtype of all tensors, or that of each if they differ."""
    dtypes = {name: str(leaf.dtype) for name, leaf in tensors.items()}
    return dtypes if len(set(dtypes.values())) > 1 else next(iter(dtypes.values()))


def _versions() -> dict[str, str]:
    packages = ("jax", "orbax-checkpoint", "tensorstore", "numpy")
    return {
        "vxlpro_jax": vxlpro_jax.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _write_params(directory: Path, leaves: Mapping[str, LazyLeaf]) -> None:
    total = folders.total_bytes(leaves.values())
    with progress.track("Writing parameters", total_bytes=total) as advance:
        watched = {path: _watch(leaf, advance) for path, leaf in leaves.items()}
        write_params(directory, leaves=tree.unflatten(watched))


def _watch(leaf: LazyLeaf, advance: progress.Advance) -> LazyLeaf:
    def read(start, stop):
        array = leaf.read(start, stop)
        advance(array.nbytes)
        return array

    return dataclasses.replace(leaf, read=read)
