"""Converts nested mappings, as config files and checkpoints hold them, into config dataclasses."""

import ast
import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

from vxlpro_jax.config.migration import current_path, migrate
from vxlpro_jax.config.schema import PRESETS, ModelConfig, T, TrainConfig
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.registry import nearest

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def from_mapping(cls: type[T], values: Mapping[str, Any], *, path: str = "config") -> T:
    """Builds the dataclass `cls` from a nested mapping; absent keys keep their defaults.

    A mapping for a `ModelConfig` may name a `preset`, whose values its other keys replace. Names of
    earlier releases are accepted for a `TrainConfig` (see `migration`).

    Raises:
        InputError: a key that `cls` does not have (the message names the nearest one), or a value
            whose type does not fit the field.
    """
    if cls is TrainConfig:
        values = migrate(values)
    return _replace(_base(cls, values), {k: v for k, v in values.items() if k != "preset"}, path)


def override(cls: type, values: Mapping[str, Any], *, path: str, text: str) -> dict[str, Any]:
    """Returns nested values with one field set from text, as `--config.PATH=TEXT` asks.

    Args:
        cls: dataclass whose fields the values set.
        values: nested mapping; it is not changed.
        path: dotted path of the field, `optim.lr`; an earlier name is accepted.
        text: value as the command line holds it.

    Raises:
        InputError: no field has this path (the message names the nearest one), or the text does
            not fit the field's type.
    """
    if cls is TrainConfig:
        path = current_path(path)
    value = _parse(_kind_at(cls, path), text, f"config.{path}")
    return _with(values, path.split("."), value)


def _base(cls: type[T], values: Mapping[str, Any]) -> T:
    if cls is not ModelConfig:
        return cls()
    name = values.get("preset", "tiny")
    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}: known are {', '.join(PRESETS)}.")
    return typing.cast(T, PRESETS[name])


def _replace(base: Any, values: Mapping[str, Any], path: str) -> Any:
    types = typing.get_type_hints(type(base))
    changes = {}
    for key, value in values.items():
        if key not in types:
            raise InputError(f"Unknown key {path}.{key}{nearest(key, types)}")
        changes[key] = _convert(types[key], value, getattr(base, key), f"{path}.{key}")
    return dataclasses.replace(base, **changes)


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
    """Converts a tuple; `kinds` has one type per item, or one and `...` for any number of them."""
    if not isinstance(value, tuple | list):
        raise InputError(f"{path} is {value!r}: expected a tuple.")
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise InputError(f"{path} is {value!r}: expected {len(kinds)} values.")
    return tuple(
        _convert(kind, item, kind(), path) for kind, item in zip(kinds, value, strict=True)
    )


def _kind_at(cls: Any, path: str) -> Any:
    """Returns the type of the field at a dotted path."""
    kind, done = cls, "config"
    for name in path.split("."):
        if not dataclasses.is_dataclass(kind):
            raise InputError(f"Unknown key config.{path}: {done} has no fields.")
        types = typing.get_type_hints(kind)
        if kind is ModelConfig:
            types["preset"] = str
        if name not in types:
            raise InputError(f"Unknown key {done}.{name}{nearest(name, types)}")
        kind, done = types[name], f"{done}.{name}"
    if dataclasses.is_dataclass(kind):
        example = f"{done}.{dataclasses.fields(kind)[0].name}"
        raise InputError(f"{done} is a group of fields: set one of them, --{example}=VALUE.")
    return kind


def _parse(kind: Any, text: str, path: str) -> Any:
    """Returns the value that the text stands for; `from_mapping` checks the field's type."""
    if kind is str or typing.get_origin(kind) is Literal:
        return text
    try:
        if kind is bool:
            return _BOOLEANS[text.lower()]
        if kind in (int, float):
            return kind(text)
        value = ast.literal_eval(text)
    except (KeyError, SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        name = getattr(kind, "__name__", "tuple")
        raise InputError(f"{path} is {text!r}: expected {name}.") from error
    return value if isinstance(value, tuple | list) else (value,)


def _with(values: Mapping[str, Any], names: list[str], value: Any) -> dict[str, Any]:
    first, *rest = names
    return {**values, first: _with(values.get(first, {}), rest, value) if rest else value}
