"""Converts a model folder, or the newest step of a training run, to release-format safetensors."""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert import dts_file, folders, mapping, progress
from checkpoints_convert.safetensors_io import plan_shards, write_shards
from vxlpro_jax.checkpoints.array_store import open_leaves
from vxlpro_jax.checkpoints.inference_config import copy_inference_config
from vxlpro_jax.checkpoints.params import (
    copy_code,
    copy_tokenizer,
    is_run,
    locate,
    read_json,
    read_model_config,
)
from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.data.text import tokenizer_export
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError


def convert(source: Path, destination: Path, *, max_shard_bytes: int = 5 * 10**9) -> None:
    """Converts a model folder or training folder into the release-format folder `destination`.

    Args:
        source: folder with `params/`, or with `checkpoints/`, whose newest complete step is used.
        destination: path that does not exist yet.
        max_shard_bytes: largest number of tensor bytes in a file, unless one tensor is larger.

    Raises:
        InputError: the source is not a checkpoint, is damaged, or does not fit its config.json; or
            the destination exists.
    """
    located = locate(source)
    root = Path(located.root)
    config = read_json(root / "config.json")
    leaves = open_leaves(located.params)
    expected = mapping.param_shapes(ModelConfig.from_release(config))
    flat = tree.flatten(leaves)
    trouble = f"{located.params} does not fit its config.json"
    tree.check_match(flat, expected=tree.flatten(expected), trouble=trouble)
    structs = mapping.torch_structs(leaves)
    arrays = (tensor.array for tensor in mapping.to_torch(leaves))
    if mapping.HEAD not in structs and _stores_tied_head(root):
        structs |= {mapping.HEAD: structs[mapping.EMBEDDING]}
        arrays = itertools.chain(arrays, (leaf.whole() for leaf in [flat["decoder/embed"]]))
    nbytes = folders.total_bytes(structs.values())
    with (
        folders.new_folder(destination, needed_bytes=nbytes) as folder,
        progress.track("Writing tensors", total_bytes=nbytes) as advance,
    ):
        shards = plan_shards(structs, max_shard_bytes=max_shard_bytes)
        write_shards(folder, shards=shards, arrays=_watch(arrays, advance))
        copy_tokenizer(root, folder)
        copy_code(root, folder)
        copy_inference_config(root, folder)
        shutil.copyfile(root / "config.json", folder / "config.json")
        if is_run(root):
            _complete(folder, config=config, dtype=structs[mapping.EMBEDDING].dtype)


def _complete(folder: Path, *, config: dict[str, Any], dtype: np.dtype) -> None:
    """Adds what the released code and transformers need and a run's folder may lack."""
    whole = ModelConfig.from_release(config).to_release(config) | {"torch_dtype": str(dtype)}
    (folder / "config.json").write_text(json.dumps(whole, indent=2) + "\n")
    tokenizer_export.write_whole(folder)
    tokenizer_export.complete(folder)


def convert_dts(source: Path, destination: Path) -> None:
    """Writes the synthesizer of any folder that has one as a state dict (see `dts_file`).

    Raises:
        InputError: the source is not a checkpoint, is damaged, or has no DTS of the sizes in its
            config.json; or the destination cannot be written.
    """
    located = locate(source)
    config = read_model_config(located.root)
    if config.dts.layout != "released":
        raise InputError(
            f"The DTS of {located.root} was trained with layout {config.dts.layout!r}, but the"
            " released code always uses its own layout, so its results would be wrong."
        )
    shapes = mapping.param_shapes(config)
    leaves = open_leaves(located.params)
    trouble = f"The DTS of {located.params} does not fit its config.json"
    have, need = ({"dts": leaves.get("dts", {})}, {"dts": shapes["dts"]})
    tree.check_match(tree.flatten(have), expected=tree.flatten(need), trouble=trouble)
    rows = mapping.to_torch(shapes | {"dts": leaves["dts"]}, parts=("dts",))
    dts_file.write(destination, tensors={row.name: row.array for row in rows})


def _stores_tied_head(root: Path) -> bool:
    file = root / "provenance.json"
    return file.exists() and read_json(file).get("stores_tied_head", False)


def _watch(arrays: Iterable[np.ndarray], advance: progress.Advance) -> Iterator[np.ndarray]:
    for array in arrays:
        yield array
        advance(array.nbytes)
