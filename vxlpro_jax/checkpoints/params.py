"""Finds and restores parameters of model folders and training folders.

A model folder holds `params/` (an Orbax PyTree checkpoint of the parameter tree alone),
`config.json` (release format) and tokenizer files. A training folder holds the same files and
`checkpoints/<step>/params/`.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore as ts
from etils import epath

from vxlpro_jax.checkpoints.array_store import open_leaves, open_stores, reading, write_params
from vxlpro_jax.checkpoints.checksums import Sums, check_files
from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.utils import files, tree
from vxlpro_jax.utils.errors import InputError

__all__ = [
    "Located",
    "copy_code",
    "copy_tokenizer",
    "is_run",
    "locate",
    "missing_folder",
    "open_leaves",
    "params_metadata",
    "read_leaf",
    "read_model_config",
    "read_params",
    "read_store",
    "write_params",
]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
)


class Located(NamedTuple):
    """Attributes: `params`, the Orbax folder; `root`, the folder of config.json and tokenizer."""

    params: epath.Path
    root: epath.Path


def locate(directory: epath.PathLike) -> Located:
    """Finds the parameters in a model folder, a training folder or one step of the latter.

    Raises:
        InputError: `directory` is none of these, or a training folder without a complete step, or a
            model folder with a changed file.
    """
    folder = epath.Path(directory).resolve()
    if not folder.is_dir():
        raise missing_folder(directory)
    if _is_complete(folder):
        root = _root_of(folder)
        check_files(root)
        return Located(folder / "params", root)
    steps = folder / "checkpoints"
    if not steps.is_dir():
        raise InputError(
            f"{folder} is not a checkpoint: it has neither a complete params/ (a converted model)"
            " nor checkpoints/ (a training run). Convert PyTorch weights with"
            " `python -m checkpoints_convert.torch_to_orbax`."
        )
    complete = [step for step in steps.iterdir() if step.name.isdigit() and _is_complete(step)]
    if not complete:
        raise InputError(f"Training folder {folder} has no complete checkpoint yet.")
    return Located(max(complete, key=lambda step: int(step.name)) / "params", folder)


def missing_folder(directory: epath.PathLike) -> InputError:
    """Makes the error for a missing folder, whose name may be that of a model on a hub."""
    name = str(directory)
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return InputError(
            f"There is no folder {name}. If it is a model of the Hugging Face hub, download it with"
            f" `hf download {name} --local-dir DIR` and convert it with `python -m"
            " checkpoints_convert.torch_to_orbax --checkpoint DIR --out MODEL_DIR`."
        )
    return InputError(f"Checkpoint folder {epath.Path(directory).resolve()} does not exist.")


def is_run(root: epath.PathLike) -> bool:
    """Returns whether a folder belongs to a training run."""
    return (epath.Path(root) / "train_config.json").exists()


def _is_complete(folder: epath.Path) -> bool:
    # Orbax writes to a temporary name and renames it, so a folder with the final name is complete.
    return (folder / "params" / "_METADATA").exists()


def _root_of(folder: epath.Path) -> epath.Path:
    is_step = not (folder / "config.json").exists() and folder.parent.name == "checkpoints"
    return folder.parent.parent if is_step else folder


def read_model_config(root: epath.PathLike) -> ModelConfig:
    """Reads the model's sizes from `root/config.json`.

    Raises:
        InputError: the file is missing, is not JSON, or lacks a size.
    """
    return ModelConfig.from_release(read_json(epath.Path(root) / "config.json"))


def read_json(file: epath.PathLike) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        InputError: the file is missing or does not hold an object.
    """
    return files.read_json(epath.Path(file))


def copy_tokenizer(source: epath.PathLike, folder: epath.PathLike) -> None:
    """Copies all tokenizer and generation files of `source`."""
    for name in TOKENIZER_FILES:
        file = epath.Path(source) / name
        if file.exists():
            file.copy(epath.Path(folder) / name, overwrite=True)


def copy_code(source: epath.PathLike, folder: epath.PathLike) -> None:
    """Copies the Python files to which `auto_map` in the config.json of `source` points.

    Nothing here runs them; transformers runs them if the user trusts them.
    """
    config = epath.Path(source) / "config.json"
    if not config.exists() or not read_json(config).get("auto_map"):
        return
    for file in epath.Path(source).glob("*.py"):
        file.copy(epath.Path(folder) / file.name, overwrite=True)


def params_metadata(directory: epath.PathLike) -> dict[str, Any]:
    """Returns shapes and dtypes of a `params/` folder: nested dict of `jax.ShapeDtypeStruct`.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    return tree.unflatten(_structs(open_stores(directory).stores))


def _structs(stores: Mapping[str, ts.TensorStore]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        path: jax.ShapeDtypeStruct(tuple(store.shape), store.dtype.numpy_dtype)
        for path, store in stores.items()
    }


def read_leaf(directory: epath.PathLike, path: str) -> np.ndarray:
    """Reads one array of a `params/` folder, as stored.

    Raises:
        InputError: there is no such array, or the checkpoint is damaged.
    """
    leaves = tree.flatten(open_leaves(directory))
    if path not in leaves:
        raise InputError(f"{directory} has no parameter {path!r}.")
    return leaves[path].whole()


def read_params(
    directory: epath.PathLike,
    *,
    like: Mapping[str, Any] | None = None,
    dtype: Any = None,
    only: Callable[[str], bool] = lambda path: True,
    unstack: str | None = None,
) -> dict[str, Any]:
    """Restores parameters from a `params/` folder.

    Args:
        directory: an Orbax PyTree checkpoint of the parameter tree alone.
        like: nested dict of `jax.ShapeDtypeStruct` that the folder must match in structure and
            shapes (not in dtype). A leaf with a sharding is restored to it, and each device reads
            only its own part. None accepts any folder.
        dtype: dtype of the result; None keeps the stored one.
        only: function that chooses leaves by path; others are neither checked nor read.
        unstack: branch that is returned as one branch per row: `decoder/layers` becomes
            `decoder/layers_0`, `decoder/layers_1` and so on. Its shardings in `like` are of a row.

    Returns:
        Nested dict of the chosen leaves: `jax.Array` where `like` gives a sharding, else NumPy.

    Raises:
        InputError: paths are missing, unexpected or misshapen (the first are listed), or the
            checkpoint is damaged.
    """
    opened = open_stores(directory)
    stores = {path: store for path, store in opened.stores.items() if only(path)}
    stored = _structs(stores)
    wanted = stored
    if like is not None:
        wanted = {path: leaf for path, leaf in tree.flatten(like).items() if only(path)}
        tree.check_match(stored, expected=wanted, trouble=f"{directory} does not fit the model")
    restored, sums = {}, Sums(opened.seals or {})
    for path, leaf in wanted.items():
        sharding = getattr(leaf, "sharding", None)
        for name, place, part in _parts(path, stores[path], unstack=unstack):
            add = functools.partial(sums.add, path, place) if opened.seals else None
            with reading(directory):
                array = read_store(part, sharding=sharding, dtype=dtype, add=add)
            restored[name] = array
    if opened.seals:
        is_shared = any(not _is_local(leaf) for leaf in wanted.values())
        (sums.of_all_processes() if is_shared else sums).check(directory, wanted)
    return tree.unflatten(restored)


def _is_local(leaf: Any) -> bool:
    """Returns whether this process reads all of the array."""
    sharding = getattr(leaf, "sharding", None)
    return sharding is None or sharding.is_fully_addressable


def _parts(path: str, store: ts.TensorStore, *, unstack: str | None):
    """Returns name, first indices and store of the leaf, or of each row of an unstacked leaf."""
    if unstack is None or not path.startswith(f"{unstack}/"):
        return [(path, (), store)]
    rest = path.removeprefix(unstack)
    return [(f"{unstack}_{row}{rest}", (row,), store[row]) for row in range(store.shape[0])]


def read_store(
    store: ts.TensorStore,
    *,
    sharding: jax.sharding.Sharding | None,
    dtype: Any = None,
    add: Callable[[np.ndarray, tuple[int, ...]], None] | None = None,
) -> Any:
    """Reads a NumPy array, or a JAX array of a given sharding; each device reads its own part.

    Args:
        store: array on disk.
        sharding: sharding of the result; None for a NumPy array.
        dtype: dtype of the result; None keeps the stored one.
        add: function that gets each part as stored, with the index of its first entry; if several
            processes read a part, only one of them calls it.
    """
    owned = None if sharding is None else _owned_parts(sharding, tuple(store.shape))

    # Devices that hold the same part share one read.
    @functools.cache
    def read(bounds):
        part = store[tuple(slice(*bound) for bound in bounds)].read().result()
        if add and (owned is None or bounds in owned):
            add(part, tuple(start for start, _ in bounds))
        # Values beyond float16's range become infinite, as elsewhere.
        with np.errstate(over="ignore"):
            return part.astype(dtype or part.dtype, copy=False)

    if sharding is None:
        return read(tuple((0, size) for size in store.shape))

    def read_part(index):
        return read(_bounds(index, store.shape))

    return jax.make_array_from_callback(tuple(store.shape), sharding, read_part)


def _owned_parts(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> set[tuple]:
    """Assigns each part of an array to one process; returns this process's parts as `_bounds`."""
    owners: dict[tuple, int] = {}
    for device, index in sharding.devices_indices_map(shape).items():
        owners.setdefault(_bounds(index, shape), device.process_index)
    return {bounds for bounds, owner in owners.items() if owner == jax.process_index()}


def _bounds(index: Any, shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
