"""Nested dicts of parameters and the slash-joined paths that name their leaves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.nested import flatten as flatten
from vxlpro_jax.utils.nested import unflatten as unflatten

# Number of names of each kind in an error message.
_MOST_NAMES = 5


def cast(tree: Any, dtype: Any) -> Any:
    """Converts every array of a tree to another dtype."""
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def checksums(tree: Any) -> Any:
    """Computes a uint32 per array: the sum of its bits, weighted by position, in any order."""
    return jax.tree.map(_checksum, tree)


def _checksum(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    # Computed axis by axis, so that a device needs only the positions of its own part.
    places = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        stride = math.prod(x.shape[axis + 1 :]) % 2**32
        places += jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return (bits.astype(jnp.uint32) * (2 * places + 1)).sum(dtype=jnp.uint32)


def check_match(found: Mapping[str, Any], *, expected: Mapping[str, Any], trouble: str) -> None:
    """Checks that two flat mappings of arrays have the same names and shapes.

    Args:
        found: arrays by path.
        expected: arrays that should exist, by path.
        trouble: beginning of the error message, a sentence without its full stop.

    Raises:
        InputError: names are missing or unexpected, or shapes differ; the message lists the first.
    """
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in found.keys() & expected.keys()
        if tuple(found[name].shape) != tuple(expected[name].shape)
    ]
    problems = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "wrong shape": misshapen,
    }
    lists = [f"{kind}: {_some(sorted(names))}" for kind, names in problems.items() if names]
    if lists:
        raise InputError(f"{trouble}: {'; '.join(lists)}.")


def _some(names: Sequence[str]) -> str:
    """Lists the first names, and the number of further ones."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")
