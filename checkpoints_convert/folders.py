"""Result folders: complete or absent, with the small files that travel along."""

import contextlib
import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vxlpro_jax.utils.errors import InputError


@contextlib.contextmanager
def new_folder(destination: Path, *, needed_bytes: int) -> Iterator[Path]:
    """A temporary folder beside `destination`, renamed to it at the end and removed on an error.

    A killed run leaves `DESTINATION.partial`, which the next run replaces.

    Raises:
        InputError: `destination` exists, or the disk is too full.
    """
    destination = destination.absolute()
    if destination.exists():
        raise InputError(f"{destination} exists already: choose another --out or remove it.")
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _check_space(partial, needed_bytes)
        yield partial
        os.rename(partial, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"The result needs {needed_bytes / 1e9:.1f} GB, but {folder.parent} has"
            f" {free / 1e9:.1f} GB left: free some, or choose another --out."
        )


def fingerprint(file: Path) -> dict[str, Any]:
    """Name, bytes and SHA-256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": file.name, "bytes": file.stat().st_size, "sha256": digest}


def total_bytes(arrays: Iterable[Any]) -> int:
    """Bytes of anything with shapes and dtypes."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
