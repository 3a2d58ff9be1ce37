"""The header of a safetensors file, which is checked before any of it is used.

A file consists of: header length (uint64, little-endian), header (JSON: name -> dtype, shape,
data_offsets), data.
"""

import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vxlpro_jax.utils.errors import InputError

DTYPES = {
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
# A header of 4 MiB names 30,000 tensors; JSON may take thirty times its size in memory.
_LONGEST_HEADER = 4 * 2**20
_MOST_AXES = 32
_LONGEST_QUOTE = 80


class Entry(NamedTuple):
    """Attributes: `shape` and `dtype` of a tensor; `offset` of its first byte in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


class _Damaged(InputError):
    def __init__(self, file: Path, what: str):
        super().__init__(f"{file} is not a complete safetensors file ({what}): download it again.")


def read_header(file: Path) -> dict[str, Entry]:
    """Reads names, types and offsets of a file's tensors, which must fill it without gaps.

    Raises:
        InputError: the file is truncated or malformed, repeats a name, or has a tensor of a type
            that cannot be converted.
    """
    content, start = _read_json(file)
    content.pop("__metadata__", None)
    data_bytes = file.stat().st_size - start
    ranges = sorted(_checked_range(file, name, x, data_bytes) for name, x in content.items())
    ends = [0, *(end for _, end in ranges)]
    if [begin for begin, _ in ranges] != ends[:-1]:
        raise _Damaged(file, "its tensors overlap or leave gaps")
    if ends[-1] != data_bytes:
        raise _Damaged(file, f"{start + data_bytes:,} bytes instead of {start + ends[-1]:,}")
    return {name: _entry(file, name, x, start) for name, x in content.items()}


def _read_json(file: Path) -> tuple[dict[str, Any], int]:
    """Returns the header, and the offset at which the data begins."""
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else math.inf
        if 8 + length > file.stat().st_size:
            raise _Damaged(file, "it ends within its header")
        if length > _LONGEST_HEADER:
            raise _Damaged(file, f"its header of {length:,} bytes is longer than any real one")
        text = stream.read(int(length))
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise _Damaged(file, "its header is not JSON") from error
    if not isinstance(content, dict):
        raise _Damaged(file, "its header is not a JSON object")
    return content, 8 + len(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise InputError(f"the header names {quote(name)} twice.")
    return content


def _checked_range(file: Path, name: str, tensor: Any, data_bytes: int) -> tuple[int, int]:
    """Returns the offsets in the data of a tensor's first byte and of the byte after its last."""
    if not isinstance(tensor, dict):
        raise _Damaged(file, f"{quote(name)} has no dtype, shape and data_offsets")
    if not isinstance(tensor.get("dtype"), str):
        raise _Damaged(file, f"{quote(name)} has no dtype")
    if not _are_sizes(tensor.get("shape")):
        raise _Damaged(file, f"{quote(name)} has no valid shape of at most {_MOST_AXES} sizes")
    offsets: Any = tensor.get("data_offsets")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Damaged(file, f"{quote(name)} does not have two ascending data_offsets")
    if offsets[1] > data_bytes:
        raise _Damaged(file, f"{quote(name)} ends after the file's {data_bytes:,} bytes of data")
    return offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
    """Returns whether this is a list of non-negative integers (and not of JSON booleans)."""
    is_list = isinstance(values, list) and len(values) <= _MOST_AXES
    return is_list and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _entry(file: Path, name: str, tensor: dict[str, Any], start: int) -> Entry:
    if tensor["dtype"] not in DTYPES:
        stored = quote(tensor["dtype"])
        raise InputError(f"{file}: {quote(name)} has dtype {stored}, which cannot be converted.")
    dtype, shape = DTYPES[tensor["dtype"]], tuple(tensor["shape"])
    begin, end = tensor["data_offsets"]
    if math.prod(shape) * dtype.itemsize != end - begin:
        sizes = quote(str(shape))
        raise _Damaged(file, f"{quote(name)} has {end - begin:,} bytes, which do not make {sizes}")
    return Entry(shape, dtype, start + begin)


def quote(text: str) -> str:
    """Formats a name from a file for a message: printable, on one line and not long."""
    printable = "".join(c if c.isprintable() else "?" for c in text[: _LONGEST_QUOTE + 1])
    return printable if len(text) <= _LONGEST_QUOTE else printable[:-1] + "..."
