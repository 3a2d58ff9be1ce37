"""Writes result folders, complete or not at all, with the small files that belong to them."""

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from vxlpro_jax.utils.errors import InputError

_LOCK = ".lock"


@contextlib.contextmanager
def new_folder(destination: Path, *, needed_bytes: int) -> Iterator[Path]:
    """Yields a temporary folder beside `destination`, renamed to it at the end, removed on error.

    A killed run leaves `DESTINATION.partial`, which the next run replaces.

    Raises:
        InputError: `destination` exists or is being written by another process, or the disk is too
            full.
    """
    with _workspace(destination.absolute()) as partial:
        _check_space(partial, needed_bytes)
        yield partial
        os.rename(partial, destination)
        (destination / _LOCK).unlink()


@contextlib.contextmanager
def new_file(destination: Path) -> Iterator[Path]:
    """Yields a path in a temporary folder beside `destination`, to which the file is renamed.

    Raises:
        InputError: as in `new_folder`.
    """
    with _workspace(destination.absolute()) as partial:
        yield partial / destination.name
        os.rename(partial / destination.name, destination)


@contextlib.contextmanager
def _workspace(destination: Path) -> Iterator[Path]:
    """Yields the empty folder `DESTINATION.partial` under a lock; removes it if it still exists."""
    partial = destination.with_name(destination.name + ".partial")
    _check_absent(destination)
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / _LOCK).open("w") as lock:
        _take(lock, partial / _LOCK, destination)
        try:
            _check_absent(destination)  # Another process may just have finished.
            _empty(partial)
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _check_absent(destination: Path) -> None:
    if destination.exists():
        raise InputError(f"{destination} exists already: choose another --out or remove it.")


def _take(lock: IO[str], file: Path, destination: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The process that held it may have renamed its folder since the file was opened.
        is_taken = os.path.samestat(os.fstat(lock.fileno()), os.stat(file))
    except (BlockingIOError, FileNotFoundError):
        is_taken = False
    if not is_taken:
        raise InputError(
            f"{destination} is being written by another process: wait for it, or choose another"
            " --out."
        )


def _empty(folder: Path) -> None:
    """Removes everything except the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"The result needs {needed_bytes / 1e9:.1f} GB, but {folder.parent} has"
            f" {free / 1e9:.1f} GB left: free some, or choose another --out."
        )


def fingerprint(file: Path) -> dict[str, Any]:
    """Returns name, size in bytes and SHA-256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": file.name, "bytes": file.stat().st_size, "sha256": digest}


def total_bytes(arrays: Iterable[Any]) -> int:
    """Returns the total bytes of objects that have shapes and dtypes."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
