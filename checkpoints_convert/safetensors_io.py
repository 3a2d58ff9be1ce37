"""Reads and writes safetensors files one tensor at a time; only the header is kept in memory.

Reading uses no memory map, whose pages would count as memory of the process.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from checkpoints_convert.safetensors_header import DTYPES, read_header
from checkpoints_convert.transforms import contiguous
from vxlpro_jax.checkpoints.array_store import LazyLeaf, rows_per_block
from vxlpro_jax.utils.errors import InputError

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = np.dtype("<u8")


def read_tensors(file: Path) -> dict[str, LazyLeaf]:
    """Returns the tensors of a file by name, reading only the header.

    Raises:
        InputError: as in `read_header`.
    """
    return {
        name: stored_array(file, offset=entry.offset, shape=entry.shape, dtype=entry.dtype)
        for name, entry in read_header(file).items()
    }


def stored_array(file: Path, *, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> LazyLeaf:
    """Returns a contiguous array that starts at byte `offset` of a file, without reading it."""
    row_items = math.prod(shape[1:])

    def read(start, stop):
        begin, items = offset + start * row_items * dtype.itemsize, (stop - start) * row_items
        array = np.fromfile(file, dtype, items, offset=begin)
        if array.size != items:
            raise InputError(f"{file} became shorter while it was read.")
        return array.reshape(-1, *shape[1:])

    rows = rows_per_block(shape, dtype) if shape else 1
    return LazyLeaf(shape=shape, dtype=dtype, rows=rows, read=read)


class Shard(NamedTuple):
    """Attributes: `file` name of one shard; `tensors` in it, in order."""

    file: str
    tensors: dict[str, jax.ShapeDtypeStruct]


def plan_shards(
    structs: Mapping[str, jax.ShapeDtypeStruct], *, max_shard_bytes: int
) -> list[Shard]:
    """Splits tensors, in order, into files named as by Hugging Face.

    A tensor larger than `max_shard_bytes` gets its own file.
    """
    groups: list[dict[str, jax.ShapeDtypeStruct]] = [{}]
    used = 0
    for name, struct in structs.items():
        if groups[-1] and used + _nbytes(struct) > max_shard_bytes:
            groups.append({})
            used = 0
        groups[-1][name] = struct
        used += _nbytes(struct)
    if len(groups) == 1:
        return [Shard("model.safetensors", groups[0])]
    files = [f"model-{n:05}-of-{len(groups):05}.safetensors" for n in range(1, len(groups) + 1)]
    return [Shard(file, group) for file, group in zip(files, groups, strict=True)]


def _nbytes(struct: jax.ShapeDtypeStruct) -> int:
    return math.prod(struct.shape) * struct.dtype.itemsize


def write_shards(folder: Path, *, shards: Iterable[Shard], arrays: Iterable[np.ndarray]) -> None:
    """Writes the files of a plan, and the index if there are several.

    Args:
        folder: existing folder.
        shards: result of `plan_shards`.
        arrays: arrays of all shards, in the order of the plan; each is dropped once written.
    """
    shards, arrays = list(shards), iter(arrays)
    for shard in shards:
        with _ShardWriter(folder / shard.file, shard.tensors) as writer:
            for name in shard.tensors:
                writer.append(name, next(arrays))
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(_nbytes(s) for x in shards for s in x.tensors.values())},
            "weight_map": {name: shard.file for shard in shards for name in shard.tensors},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_file(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays that are already in memory into one file."""
    structs = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in tensors.items()}
    with _ShardWriter(file, structs) as writer:
        for name, array in tensors.items():
            writer.append(name, array)


INDEX = "model.safetensors.index.json"


class _ShardWriter:
    """Writes one file: its header is known in advance, and its data is appended."""

    def __init__(self, file: Path, structs: Mapping[str, jax.ShapeDtypeStruct]):
        self._structs = structs
        self._stream = file.open("wb")
        header = _header(structs)
        self._stream.write(np.array(len(header), _LENGTH).tobytes() + header)

    def append(self, name: str, array: np.ndarray) -> None:
        struct = self._structs[name]
        if (array.shape, array.dtype) != (struct.shape, struct.dtype):
            raise ValueError(f"{name} is {array.dtype}{array.shape}, planned was {struct}")
        self._stream.write(contiguous(array).reshape(-1).view(np.uint8).data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._stream.close()


def _header(structs: Mapping[str, jax.ShapeDtypeStruct]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, struct in structs.items():
        begin, end = end, end + _nbytes(struct)
        header[name] = {
            "dtype": _NAMES[np.dtype(struct.dtype)],
            "shape": list(struct.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    # The data starts at a multiple of eight bytes.
    return text + b" " * (-len(text) % 8)
