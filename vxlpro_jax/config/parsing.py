"""Converts nested mappings, as config files and checkpoints hold them, into config dataclasses."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from vxlpro_jax.config.schema import PRESETS, ModelConfig, T
from vxlpro_jax.utils.errors import InputError


def from_mapping(cls: type[T], values: Mapping[str, Any], *, path: str = "config") -> T:
    """Builds the dataclass `cls` from a nested mapping; absent keys keep their defaults.

    A mapping for a `ModelConfig` may name a `preset`, whose values its other keys replace.

    Raises:
        InputError: a key that `cls` does not have (the message names the nearest one), or a value
            whose type does not fit the field.
    """
    return _replace(_base(cls, values), {k: v for k, v in values.items() if k != "preset"}, path)


def _base(cls: type[T], values: Mapping[str, Any]) -> T:
    if cls is not ModelConfig:
        return cls()
    name = values.get("preset", "tiny")
    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}: known are {', '.join(PRESETS)}.")
    return PRESETS[name]


def _replace(base: T, values: Mapping[str, Any], path: str) -> T:
    types = typing.get_type_hints(type(base))
    changes = {}
    for key, value in values.items():
        if key not in types:
            raise InputError(f"Unknown key {path}.{key}{nearest(key, types)}")
        changes[key] = _convert(types[key], value, getattr(base, key), f"{path}.{key}")
    return dataclasses.replace(base, **changes)


def nearest(key: str, known: Iterable[str]) -> str:
    """The end of an unknown-key message: `: did you mean 'x'?` or the list of known keys."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(sorted(known))}."


def _convert(kind: Any, value: Any, default: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{path} is {value!r}: expected a mapping of its fields.")
        if kind is ModelConfig:
            return from_mapping(ModelConfig, value, path=path)
        return _replace(default, value, path)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            choices = ", ".join(map(repr, typing.get_args(kind)))
            raise InputError(f"{path} is {value!r}: choose one of {choices}.")
        return value
    if typing.get_origin(kind) is tuple:
        return _convert_tuple(typing.get_args(kind), value, path)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{path} is {value!r}: expected {kind.__name__}.")
    return value


def _convert_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    """`kinds` as in a type hint: one for each item, or one and `...` for any number of them."""
    if not isinstance(value, tuple | list):
        raise InputError(f"{path} is {value!r}: expected a tuple.")
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise InputError(f"{path} is {value!r}: expected {len(kinds)} values.")
    return tuple(
        _convert(kind, item, kind(), path) for kind, item in zip(kinds, value, strict=True)
    )
