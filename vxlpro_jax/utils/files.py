"""Reads text and JSON from any editor, and writes files atomically.

Readers never see an incomplete file.
"""

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

from vxlpro_jax.utils.errors import InputError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class _Readable(Protocol):
    def read_bytes(self) -> bytes: ...


def read_text(path: _Readable) -> str:
    """Reads UTF-8 text, with or without a byte order mark.

    Args:
        path: local or remote path.

    Raises:
        InputError: the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (at byte {error.start}).") from error


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
