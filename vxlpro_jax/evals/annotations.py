"""Annotation files of benchmarks: rows whose fields are checked as they are read."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from vxlpro_jax.utils.errors import InputError, short_repr
from vxlpro_jax.utils.files import read_bytes, read_text

_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_SECONDS = 1e5
_MOST_ROWS = 1_000_000
_MOST_BYTES = 1 << 29  # Total size of all values of a Parquet file.

# The id of a record: its own, or its index in the file.
Id = str | int


@dataclasses.dataclass(frozen=True)
class AnnotationRow:
    """One record of an annotation file; every getter raises InputError for a field it cannot use.

    Attributes:
        where: file and record, for error messages.
        index: zero-based index in the file.
        fields: values by name.
    """

    where: str
    index: int
    fields: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return self.fields.get(key) is not None

    def id(self, key: str = "question_id") -> str | int:
        """Returns the record's own id, or its index in the file if it has none."""
        value = self.fields.get(key)
        if value is None or value == "":
            return self.index
        if isinstance(value, bool) or not (isinstance(value, int) or _is_text(value)):
            raise self.wrong(key, "text or an integer")
        return value

    def text(self, key: str) -> str:
        """Returns a non-empty text."""
        value = self.fields.get(key)
        if not _is_text(value) or not value:
            raise self.wrong(key, "text")
        return value

    def number(self, key: str) -> float:
        """Returns a finite number."""
        value = self.fields.get(key)
        if value is None or not is_number(value):
            raise self.wrong(key, "a number")
        return value

    def one_of(self, key: str, allowed: tuple) -> Any:
        """Returns one of the `allowed` values."""
        value = self.fields.get(key)
        if isinstance(value, bool) or value not in allowed:
            raise self.wrong(key, f"one of {', '.join(map(repr, allowed))}")
        return value

    def entries(self, key: str) -> list[Any]:
        """Returns a non-empty list."""
        value = self.fields.get(key)
        if not isinstance(value, list) or not value:
            raise self.wrong(key, "a non-empty list")
        return value

    def options(self, key: str) -> tuple[str, ...]:
        """Returns a non-empty list of texts or numbers, converted to texts."""
        values = self.entries(key)
        if not all(_is_text(value) or is_number(value) for value in values):
            raise self.wrong(key, "a list of texts or numbers")
        return tuple(map(str, values))

    def span(self, key: str) -> tuple[float, float]:
        """Returns two numbers, start and end in seconds."""
        value = self.fields.get(key)
        if not isinstance(value, list) or len(value) != 2 or not all(map(_is_time, value)):
            raise self.wrong(key, "two numbers, start and end in seconds")
        return value[0], value[1]

    def wrong(self, key: str, expected: str) -> InputError:
        """Makes the error that a field is not what was expected."""
        if key not in self.fields:
            return InputError(f"{self.where}: field {key!r} is missing: expected {expected}.")
        shown = short_repr(self.fields[key])
        return InputError(f"{self.where}: field {key!r} is {shown}: expected {expected}.")


def read_rows(path: Path) -> list[AnnotationRow]:
    """Returns the records of a `.parquet` file, a `.jsonl` file or concatenated JSON lists.

    Raises:
        InputError: the file cannot be read, has no records, or a record is not an object.
    """
    return rows_of(read_records(path), path=path)


def files_of(path: Path) -> list[Path]:
    """Returns the file itself, or the JSON files directly in a folder, sorted by name.

    Raises:
        InputError: the folder has no such files.
    """
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise InputError(f"Annotations {path} are a folder without JSON files: give another.")
    return files


def files_digest(path: Path) -> str:
    """Returns a hash of the content of an annotation file, or of all files of a folder.

    Raises:
        InputError: a file cannot be read.
    """
    contents = (read_bytes(file, what="Annotation file") for file in files_of(path))
    return hashlib.sha256(b"".join(contents)).hexdigest()


def rows_of(records: Any, *, path: Path) -> list[AnnotationRow]:
    """Makes rows from a list of records that was read from `path`.

    Raises:
        InputError: the value is not a list, is empty, or contains something other than objects.
    """
    if not isinstance(records, list) or not records:
        raise InputError(f"Annotations {path} have no list of records: give the published file.")
    rows = [AnnotationRow(f"{path}, record {i}", i, record) for i, record in enumerate(records)]
    for row in rows:
        if not isinstance(row.fields, dict):
            raise InputError(f"{row.where} is not an object: expected fields and their values.")
    return rows


def read_records(path: Path) -> Any:
    """Reads an annotation file: any JSON value, or the list in a `.jsonl` or `.parquet` file.

    If a file has several JSON values, as after concatenating files, their lists are joined.

    Raises:
        InputError: the file cannot be read.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    text = read_text(path, what="Annotation file")
    try:
        values = list(_values(text))
    except (ValueError, RecursionError) as error:
        raise InputError(f"Annotations {path} are not JSON ({error}): correct them.") from error
    if len(values) == 1 and path.suffix != ".jsonl":
        return values[0]
    lists = (value if isinstance(value, list) else [value] for value in values)
    return [record for records in lists for record in records]


def _values(text: str) -> Iterator[Any]:
    decoder, end = json.JSONDecoder(), _after_space(text, 0)
    while end < len(text):
        value, end = decoder.raw_decode(text, end)
        yield value
        end = _after_space(text, end)


def _after_space(text: str, start: int) -> int:
    """Returns the index of the first non-whitespace character from `start` on, or the end."""
    found = re.compile(r"[^ \t\n\r]").search(text, start)
    return found.start() if found else len(text)


def _read_parquet(path: Path) -> list[dict]:
    if not path.is_file():
        raise InputError(f"Annotation file {path} does not exist, or is not a file.")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"Annotations {path} are Parquet, which needs pyarrow: pip install pyarrow, or give"
            " them as JSON lines."
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return list(_parquet_rows(file, path))
    # Besides its own errors it raises OSError, and ValueError for values that Python cannot hold.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).split("\n")[0][:200]
        raise InputError(f"Annotations {path} are not Parquet ({reason}).") from error


def _parquet_rows(file: Any, path: Path) -> Iterator[dict]:
    """Yields the rows of a Parquet file; even a small file may hold gigabytes of equal values."""
    metadata = file.metadata
    if metadata.num_rows > _MOST_ROWS:
        raise InputError(f"Annotations {path} have more than {_MOST_ROWS:,} rows: give the file.")
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    if sum(group.total_byte_size for group in groups) > _MOST_BYTES:
        raise _too_large(path)
    left = _MOST_BYTES
    for batch in file.iter_batches(batch_size=1):
        rows = batch.to_pylist()
        left -= sum(map(_size, rows))
        if left < 0:
            raise _too_large(path)
        yield from rows


def _size(value: Any) -> int:
    """Estimates the size of a JSON value in bytes."""
    if isinstance(value, str | bytes):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value
    return 8 + (sum(map(_size, parts)) if isinstance(value, dict | list) else 0)


def _too_large(path: Path) -> InputError:
    return InputError(
        f"Annotations {path} hold more than {_MOST_BYTES >> 20} MiB: give only the columns that are"
        " needed."
    )


def is_number(value: Any) -> bool:
    """Returns whether a JSON value is a finite number that fits a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # An integer too large for a float.
        return False


def _is_time(value: Any) -> bool:
    """Returns whether a value is a plausible time in seconds; prompts may list all up to it."""
    return is_number(value) and abs(value) <= _MOST_SECONDS


def _is_text(value: Any) -> TypeGuard[str]:
    """Returns whether a value is text without lone surrogates, which files cannot store."""
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


def read_predictions(path: Path, *, ids: Sequence[Id], field: str = "prediction") -> dict[Id, str]:
    """Reads JSON lines `{"id": .., "prediction": "raw text"}`: predictions, or a judge's replies.

    Args:
        path: path of the file.
        ids: ids of all records.
        field: name of the field with the text; null or absent means that there is no text.

    Raises:
        InputError: the file cannot be read, a line is malformed, an id is repeated or not one of
            `ids`, or no line has the field but some have others; the message names file and line.
    """
    known = set(ids)
    texts: dict[Id, str | None] = {}
    fields: set[str] = set()
    for number, line in enumerate(read_text(path, what="Prediction file").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        given = _object(line, where, field)
        name = _id(given, known, where)
        if name in texts:
            raise InputError(
                f"{where}: id {short_repr(name)} occurs twice: keep one prediction for it."
            )
        texts[name] = _text(given, where, field)
        fields |= given.keys()
    others = sorted(fields - {"id"})
    if others and field not in others:
        raise InputError(
            f"Predictions {path} have no field {field!r}, only {short_repr(others)}: rename the"
            f" field with the text to {field!r}."
        )
    return {name: text for name, text in texts.items() if text is not None}


def _object(line: str, where: str, field: str) -> Mapping[str, Any]:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}): correct it.") from error
    if not isinstance(given, dict) or "id" not in given:
        raise InputError(f"{where} is not an object with 'id' and {field!r}: correct it.")
    return given


def _id(given: Mapping[str, Any], known: set[Id], where: str) -> Id:
    name = given["id"]
    is_id = isinstance(name, str | int) and not isinstance(name, bool)
    if not is_id or name not in known:
        hint = ""
        if is_id and str(name) in map(str, known):
            hint = f" Ids are {'integers' if isinstance(name, str) else 'text'} here."
        raise InputError(f"{where}: id {short_repr(name)} is not in the annotations.{hint}")
    return name


def _text(given: Mapping[str, Any], where: str, field: str) -> str | None:
    text = given.get(field)
    if text is not None and not isinstance(text, str):
        raise InputError(
            f"{where}: {field!r} is {short_repr(text)}: expected the raw text, or null."
        )
    return text
