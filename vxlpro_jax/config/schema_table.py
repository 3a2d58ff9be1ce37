"""Every config field as rows of text, for `--help` and for the documentation."""

import ast
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal, NamedTuple

from vxlpro_jax.config.schema import PRESETS, ModelConfig, TrainConfig

_PRESET = "Sizes of the model, which the other `model` fields replace; their defaults are `3b`."


class FieldRow(NamedTuple):
    """Attributes: dotted `path` of a config field, its `type`, `default` and `meaning` as text."""

    path: str
    type: str
    default: str
    meaning: str


def rows(cls: type = TrainConfig, *, path: str = "") -> Iterator[FieldRow]:
    """Yields every field of a config dataclass and of those that it holds, in order."""
    types = typing.get_type_hints(cls)
    meanings = field_docs(cls)
    if cls is ModelConfig:
        yield FieldRow(f"{path}preset", " | ".join(PRESETS), "'tiny'", _PRESET)
    for field in dataclasses.fields(cls):
        kind, name = types[field.name], f"{path}{field.name}"
        if dataclasses.is_dataclass(kind):
            yield from rows(typing.cast(type, kind), path=f"{name}.")
        else:
            yield FieldRow(name, type_text(kind), repr(field.default), meanings[field.name])


def field_docs(cls: type) -> dict[str, str]:
    """Returns the string literal below each field of a dataclass, on one line; empty if none.

    Covers only fields of the class itself, not of its bases.
    """
    docs = {}
    body = _class_bodies(sys.modules[cls.__module__])[cls.__name__]
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            docs[node.target.id] = " ".join(_string(after).split())
    return docs


def type_text(kind: Any) -> str:
    """Formats a type for readers: `int`, `sgm | random`, `(float, float)`, `(int, ...)`."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return " | ".join(map(str, arguments))
    if typing.get_origin(kind) is tuple:
        return f"({', '.join('...' if x is ... else type_text(x) for x in arguments)})"
    return kind.__name__


def first_sentence(text: str) -> str:
    """Returns the text up to its first full stop."""
    return re.split(r"(?<=\.) (?=[A-Z`])", text, maxsplit=1)[0]


def text(cls: type = TrainConfig, *, width: int = 100) -> str:
    """Returns the lines for `--help`: each field with type and default, then its meaning."""
    lines = []
    for row in rows(cls):
        lines.append(f"  --config.{row.path}={row.default}  ({row.type})")
        meaning = first_sentence(row.meaning)
        lines += textwrap.wrap(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def markdown(cls: type = TrainConfig) -> str:
    """Returns the tables of all fields for the documentation, one for each dataclass."""
    groups: dict[str, list[FieldRow]] = {}
    for row in rows(cls):
        groups.setdefault(row.path.rpartition(".")[0], []).append(row)
    return "\n\n".join(map(_section, groups, groups.values()))


def _section(path: str, fields: list[FieldRow]) -> str:
    title = f"### `{path}`" if path else "### The run"
    lines = [title, "", "| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for row in fields:
        kind = ", ".join(f"`{choice}`" for choice in row.type.split(" | "))
        lines.append(f"| `{row.path}` | {kind} | `{row.default}` | {row.meaning} |")
    return "\n".join(lines)


@functools.cache
def _class_bodies(module: ModuleType) -> dict[str, list[ast.stmt]]:
    tree = ast.parse(inspect.getsource(module))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _string(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""
