"""Pickled PyTorch state dicts, without reading their data into memory and without running code."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from checkpoints_convert.safetensors_io import stored_array
from vxlpro_jax.checkpoints.array_store import LazyLeaf
from vxlpro_jax.utils.errors import InputError


def read_tensors(file: Path) -> dict[str, LazyLeaf]:
    """The tensors of a `torch.save` file, by name; those of nested dicts as `outer.inner`.

    Only the pickle is read (`weights_only`): on the `meta` device torch keeps each storage's place
    in the file, so that the data streams from there. Differs from a memory map in that pages read
    do not stay in the process.

    Raises:
        InputError: torch is not installed, or the file is damaged, of the format before torch 1.6,
            or holds more than tensors.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"Reading {file} needs torch: `pip install torch`, or save it as safetensors."
        ) from error
    if not zipfile.is_zipfile(file):
        raise InputError(
            f"{file} is truncated, or in the format of torch before 1.6: download it again, or load"
            " it and `torch.save` it anew."
        )
    try:
        content = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # torch raises many kinds on a damaged pickle
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file} cannot be read as a state dict: {reason}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__} instead of a state dict.")
    return {name: _leaf(file, name, value) for name, value in _flatten(content)}


def _flatten(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in _flatten(value))
        else:
            yield str(name), value


def _leaf(file: Path, name: str, tensor: Any) -> LazyLeaf:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{file}: {name} is a {type(tensor).__name__} instead of a tensor.")
    dtypes = {torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16}
    dtypes |= {torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64}
    if tensor.dtype not in dtypes:
        raise InputError(f"{file}: {name} has dtype {tensor.dtype}, which cannot be converted.")
    dtype, shape = np.dtype(dtypes[tensor.dtype]), tuple(tensor.shape)
    place = tensor.untyped_storage()._checkpoint_offset
    if place is None:
        raise InputError(f"Reading {file} needs a newer torch (2.8 or later): update it.")
    begin = int(place) + int(tensor.storage_offset()) * dtype.itemsize
    if tensor.is_contiguous():
        return stored_array(file, offset=begin, shape=shape, dtype=dtype)
    return _strided(file, begin, tensor, dtype)


def _strided(file: Path, begin: int, tensor: Any, dtype: np.dtype) -> LazyLeaf:
    """A transposed or sliced tensor: the span that it covers is read, then viewed."""
    shape, strides = tuple(tensor.shape), tensor.stride()
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    covered = stored_array(file, offset=begin, shape=(span,), dtype=dtype)

    def read(start, stop):
        items = [stride * dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(covered.whole(), shape, items)[start:stop]

    return LazyLeaf(shape=shape, dtype=dtype, rows=shape[0], read=read)
