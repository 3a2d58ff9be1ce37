"""Reads text and JSON from any editor, and writes files atomically.

Readers never see an incomplete file.
"""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from vxlpro_jax.utils.errors import InputError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class _Readable(Protocol):
    def read_bytes(self) -> bytes: ...


def read_text(path: _Readable, *, what: str = "") -> str:
    """Reads UTF-8 text, with or without a byte order mark; every line ends in `\\n`.

    Args:
        path: local or remote path.
        what: what the file should be, which starts the error message.

    Raises:
        InputError: as in `read_bytes`, or the file is not UTF-8.
    """
    try:
        text = read_bytes(path, what=what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{_named(path, what)} is not UTF-8 text (at byte {error.start}): save it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: _Readable, *, what: str = "") -> bytes:
    """Returns the content of a file; the arguments are those of `read_text`.

    Raises:
        InputError: the file is missing, is not a regular file, or cannot be read.
    """
    with _explained(path, what):
        if isinstance(path, Path):
            check_regular(path, what=what)
        return path.read_bytes()


def check_regular(path: Path, *, what: str = "") -> None:
    """Refuses pipes, sockets and devices, whose content may have no end.

    Raises:
        InputError: the file is one of these.
        OSError: its type cannot be found out.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            f"{_named(path, what)} is a pipe or a device: copy its content to a file and name that."
        )


@contextlib.contextmanager
def _explained(path: _Readable, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{_named(path, what)} does not exist.") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{_named(path, what)} cannot be read ({reason}).") from error


def _named(path: _Readable, what: str) -> str:
    return f"{what} {path}".strip()


def read_json(path: _Readable) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Raises:
        InputError: as in `read_text`, or the file does not contain an object.
    """
    return parse_json(read_text(path), name=str(path))


def parse_json(text: str, *, name: str) -> dict[str, Any]:
    """Parses text that contains a JSON object; error messages call it `name`.

    Raises:
        InputError: the text is not a JSON object.
    """
    remedy = "correct it, or copy it again."
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise InputError(f"{name} is not valid JSON (nested too deeply): {remedy}") from error
    except ValueError as error:
        raise InputError(f"{name} is not valid JSON ({str(error)[:200]}): {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{name} does not contain a JSON object: {remedy}")
    return content


def make_writable(folder: Path, *, flag: str) -> None:
    """Creates a folder and checks that it is writable.

    Raises:
        InputError: it cannot be created or written; the message names the `flag` that set it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise InputError(
            f"Folder {folder} cannot be written ({error.strerror}): choose another {flag}, or allow"
            " writing there."
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` to a temporary file beside `path`, then renames it."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
