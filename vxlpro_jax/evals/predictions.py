"""Predictions of a model: JSON lines `{"id": .., "prediction": "raw text"}`.

A judge model's replies are such lines with the field `reply`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.evals.annotations import read_text
from vxlpro_jax.utils.errors import InputError

Id = str | int


def read_predictions(path: Path, *, ids: Sequence[Id], field: str = "prediction") -> dict[Id, str]:
    """The raw text, in a `field`, of every id that has one; a null or absent field counts as none.

    Raises:
        InputError: the file cannot be read, a line is not of that form, or an id is given twice or
            is not one of `ids`; the sentence names file and line.
    """
    known = set(ids)
    texts: dict[Id, str | None] = {}
    for number, line in enumerate(read_text(path, "Predictions").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        given = _object(line, where, field)
        name = _id(given, known, where)
        if name in texts:
            raise InputError(f"{where}: id {name!r} was given before: keep one prediction of it.")
        texts[name] = _text(given, where, field)
    return {name: text for name, text in texts.items() if text is not None}


def _object(line: str, where: str, field: str) -> Mapping[str, Any]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): mend it.") from error
    if not isinstance(given, dict) or "id" not in given:
        raise InputError(f"{where} is no object with 'id' and {field!r}: mend it.")
    return given


def _id(given: Mapping[str, Any], known: set[Id], where: str) -> Id:
    name = given["id"]
    if isinstance(name, bool) or not isinstance(name, str | int) or name not in known:
        hint = ""
        if str(name) in map(str, known):
            hint = f" Ids are {'integers' if isinstance(name, str) else 'text'} here."
        raise InputError(f"{where}: id {name!r} is not in the annotations.{hint}")
    return name


def _text(given: Mapping[str, Any], where: str, field: str) -> str | None:
    text = given.get(field)
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: {field!r} is {text!r}: expected the raw text, or null.")
    return text
