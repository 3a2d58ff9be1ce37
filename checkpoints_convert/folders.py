"""Result folders: complete or absent, with the small files that travel along."""

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
    """A temporary folder beside `destination`, renamed to it at the end and removed on an error.

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
    """A path in a temporary folder beside `destination`, of which the file is renamed to it.

    Raises:
        InputError: as `new_folder`.
    """
    with _workspace(destination.absolute()) as partial:
        yield partial / destination.name
        os.rename(partial / destination.name, destination)


@contextlib.contextmanager
def _workspace(destination: Path) -> Iterator[Path]:
    """The folder `DESTINATION.partial`, empty and this process's alone; removed if still there."""
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
    """Removes all but the lock."""
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
    """Name, bytes and SHA-256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": file.name, "bytes": file.stat().st_size, "sha256": digest}


def total_bytes(arrays: Iterable[Any]) -> int:
    """Bytes of anything with shapes and dtypes."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
