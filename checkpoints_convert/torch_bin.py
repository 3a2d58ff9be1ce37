"""Reads `torch.save`d state dicts without loading their data into memory or running code."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from checkpoints_convert.safetensors_header import quote
from checkpoints_convert.torch_archive import Archive, Member
from checkpoints_convert.torch_pickle import Storage, Tensor, Unreadable, unpickle
from vxlpro_jax.checkpoints.array_store import LazyLeaf, rows_per_block
from vxlpro_jax.utils.errors import InputError

_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_MOST_TENSORS = 30_000
_DEEPEST_NESTING = 8


def read_tensors(file: Path) -> dict[str, LazyLeaf]:
    """Returns the tensors of a `torch.save` file by name; nested dicts give `outer.inner`.

    Only the pickle is read. The data streams from the archive's members, in whatever order and
    compression another program wrote them; each member's CRC-32 is checked before use.

    Raises:
        InputError: the file is damaged, in the format before torch 1.6, or contains more than
            tensors; or a tensor reaches beyond its storage. Also raised when a leaf is read, if its
            data is damaged.
    """
    archive = Archive(file)
    try:
        content = unpickle(archive.pickle)
    except Unreadable as error:
        raise _unreadable(file, str(error)) from error
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__} instead of a state dict.")
    tensors: dict[str, LazyLeaf] = {}
    for name, value in _flatten(file, content, depth=1):
        if name in tensors or len(tensors) == _MOST_TENSORS:
            what = f"it names {quote(name)} twice" if name in tensors else "it holds too many"
            raise _unreadable(file, what)
        tensors[name] = _leaf(archive, name, value)
    return tensors


def _unreadable(file: Path, reason: str) -> InputError:
    return InputError(f"{file} cannot be read as a state dict: {reason}.")


def _flatten(file: Path, content: Mapping[str, Any], *, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST_NESTING:
        raise _unreadable(file, f"its dicts are nested more than {_DEEPEST_NESTING} deep")
    for name, value in content.items():
        if isinstance(value, Mapping):
            inner = _flatten(file, value, depth=depth + 1)
            yield from ((f"{name}.{rest}", leaf) for rest, leaf in inner)
        else:
            yield name, value


def _leaf(archive: Archive, name: str, tensor: Any) -> LazyLeaf:
    where = f"{archive.file}: {quote(name)}"
    if not isinstance(tensor, Tensor):
        raise InputError(f"{where} is a {type(tensor).__name__} instead of a tensor.")
    kind = tensor.storage.type.name
    if kind not in _DTYPES:
        dtype = quote(kind.removesuffix("Storage"))
        raise InputError(f"{where} has dtype {dtype}, which cannot be converted.")
    dtype = _DTYPES[kind]
    if tensor.is_negated and dtype.kind in "iub":
        raise InputError(f"{where} is a negated view of integers, which cannot be read.")
    member = _member(archive, tensor.storage, dtype=dtype, where=where)
    _check_bounds(tensor, where=where)
    if _is_contiguous(tensor.shape, tensor.strides):
        return _contiguous(archive, member, tensor, dtype)
    return _strided(archive, member, tensor, dtype)


def _member(archive: Archive, storage: Storage, *, dtype: np.dtype, where: str) -> Member:
    member = archive.member(storage.key)
    if member is None or member.size != storage.items * dtype.itemsize:
        found = "no data" if member is None else f"{member.size:,} bytes of data"
        raise InputError(
            f"{where} has {found} instead of {storage.items:,} {dtype} numbers: the file is"
            " incomplete or was re-packed; download it again."
        )
    return member


def _check_bounds(tensor: Tensor, *, where: str) -> None:
    if 0 in tensor.shape:
        return
    if tensor.offset + _span(tensor.shape, tensor.strides) > tensor.storage.items:
        raise InputError(
            f"{where} reaches beyond its {tensor.storage.items:,} stored numbers: the file is"
            " damaged; download it again."
        )
    if _count(tensor.shape) > tensor.storage.items:
        raise InputError(
            f"{where} has more entries than are stored, because it was expanded: save its"
            " `.contiguous()`."
        )


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Returns the number of storage entries from the first to the last that is viewed."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return 0 in shape
        expected *= size
    return True


def _contiguous(archive: Archive, member: Member, tensor: Tensor, dtype: np.dtype) -> LazyLeaf:
    shape = tensor.shape
    row_items = _count(shape[1:])

    def read(start, stop):
        begin, items = tensor.offset + start * row_items, (stop - start) * row_items
        array = _numbers(archive, member, begin, items, dtype).reshape(-1, *shape[1:])
        return -array if tensor.is_negated else array

    rows = rows_per_block(shape, dtype) if shape else 1
    return LazyLeaf(shape=shape, dtype=dtype, rows=rows, read=read)


def _strided(archive: Archive, member: Member, tensor: Tensor, dtype: np.dtype) -> LazyLeaf:
    """Returns a transposed or sliced tensor; reading it reads the span that it covers."""
    shape, strides = tensor.shape, [stride * dtype.itemsize for stride in tensor.strides]
    span = _span(shape, tensor.strides)

    def read(start, stop):
        covered = _numbers(archive, member, tensor.offset, span, dtype)
        view = np.lib.stride_tricks.as_strided(covered, shape, strides)[start:stop]
        return -view if tensor.is_negated else view

    return LazyLeaf(shape=shape, dtype=dtype, rows=shape[0], read=read)


def _numbers(
    archive: Archive, member: Member, start: int, count: int, dtype: np.dtype
) -> np.ndarray:
    size = dtype.itemsize
    bits = np.frombuffer(member.read(start * size, count * size), f"u{size}")
    return (bits.byteswap() if archive.is_swapped else bits).view(dtype)
