"""Casts weights to another dtype as they are read."""

import dataclasses
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from vxlpro_jax.utils.errors import InputError

if TYPE_CHECKING:  # It imports JAX, which the --help of a command does not need.
    from vxlpro_jax.checkpoints.array_store import LazyLeaf

DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}


def cast(leaf: "LazyLeaf", dtype: np.dtype) -> "LazyLeaf":
    """Wraps the leaf to cast it to another dtype, rounded to nearest even.

    Reading it raises `InputError` if a finite value becomes infinite (above 65504 in float16).
    """

    def read(start, stop):
        return cast_array(leaf.read(start, stop), dtype)

    return dataclasses.replace(leaf, dtype=dtype, read=read)


def cast_array(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns `values` in another dtype.

    Raises:
        InputError: a finite value becomes infinite.
    """
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        result = values.astype(dtype)
    if not np.array_equal(np.isfinite(values), np.isfinite(result)):
        raise InputError(f"Some weights are too large for {dtype}: choose another dtype.")
    return result
