"""Nested dicts and the paths of their leaves; needs no JAX."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], *, separator: str = "/") -> dict[str, Any]:
    """Maps `{"a": {"b": x}}` to `{"a/b": x}`, in the order of the tree, without empty branches."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            inner = flatten(value, separator=separator)
            flat |= {f"{key}{separator}{path}": leaf for path, leaf in inner.items()}
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any], *, separator: str = "/") -> dict[str, Any]:
    """Maps `{"a/b": x}` to `{"a": {"b": x}}`, the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *branches, last = path.split(separator)
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = leaf
    return tree
