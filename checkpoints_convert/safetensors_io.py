"""Safetensors files, read and written a tensor at a time; the header is all that is held.

A file is: header length (uint64, little-endian), header (JSON: name -> dtype, shape, data_offsets),
data. Reading uses no memory map, whose pages would count as memory of the process.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import ml_dtypes
import numpy as np

from checkpoints_convert.transforms import contiguous
from vxlpro_jax.checkpoints.array_store import LazyLeaf, rows_per_block
from vxlpro_jax.utils.errors import InputError

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LENGTH = np.dtype("<u8")


class _Damaged(InputError):
    def __init__(self, file: Path, what: str):
        super().__init__(f"{file} is not a complete safetensors file ({what}): download it again.")


def read_tensors(file: Path) -> dict[str, LazyLeaf]:
    """The tensors of a file, by name; only the header is read.

    Raises:
        InputError: the file is truncated or malformed, or names a tensor twice.
    """
    header, data_start = _read_header(file)
    header.pop("__metadata__", None)
    ranges = sorted(tensor["data_offsets"] for tensor in header.values())
    ends = [0, *(end for _, end in ranges)]
    if [begin for begin, _ in ranges] != ends[:-1]:
        raise _Damaged(file, "its tensors overlap or leave gaps")
    size = file.stat().st_size
    if data_start + ends[-1] != size:
        raise _Damaged(file, f"{size:,} bytes instead of {data_start + ends[-1]:,}")
    return {name: _leaf(file, name, tensor, data_start) for name, tensor in header.items()}


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(_LENGTH.itemsize)
        length = int(np.frombuffer(start, _LENGTH)[0]) if len(start) == _LENGTH.itemsize else size
        if _LENGTH.itemsize + length > size:
            raise _Damaged(file, "it ends within its header")
        text = stream.read(length)
    try:
        return json.loads(text, object_pairs_hook=_unique), _LENGTH.itemsize + length
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except ValueError as error:
        raise _Damaged(file, "its header is not JSON") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted(name for name in content if names.count(name) > 1)
        raise InputError(f"the header names {', '.join(twice)} twice.")
    return content


def _leaf(file: Path, name: str, tensor: Mapping[str, Any], data_start: int) -> LazyLeaf:
    if tensor["dtype"] not in _DTYPES:
        raise InputError(f"{file}: {name} has dtype {tensor['dtype']}, which cannot be converted.")
    dtype, shape = _DTYPES[tensor["dtype"]], tuple(tensor["shape"])
    begin, end = tensor["data_offsets"]
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise _Damaged(file, f"{name} has {end - begin:,} bytes, which do not make {shape}")
    return stored_array(file, offset=data_start + begin, shape=shape, dtype=dtype)


def stored_array(file: Path, *, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> LazyLeaf:
    """A contiguous array in a file, from byte `offset`."""
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
    """Splits tensors, in order, into files named as Hugging Face does.

    A tensor larger than `max_shard_bytes` has a file of its own.
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
        folder: exists.
        shards: from `plan_shards`.
        arrays: of all shards, in the order of the plan; each is dropped once written.
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
    """Writes arrays that are in memory already into one file."""
    structs = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in tensors.items()}
    with _ShardWriter(file, structs) as writer:
        for name, array in tensors.items():
            writer.append(name, array)


INDEX = "model.safetensors.index.json"


class _ShardWriter:
    """One file: its header is planned, its data appended."""

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
