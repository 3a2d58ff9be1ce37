"""Files near and far, opened to read, and never one that is outside of its root.

URLs are opened by fsspec; keys, endpoints and time limits come from the usual environment of its
libraries (aiohttp, s3fs, gcsfs).
"""

import contextlib
import fcntl
import glob
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, urlsplit

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.sources.paths import escapes_root, is_remote, is_web, redact_url
from vxlpro_jax.utils.errors import InputError

_BLOCK = 4 << 20  # Bytes that are asked for at a time.


class StoredFile(NamedTuple):
    """A video or picture: the file `name` under `root`, or its bytes, `content`."""

    root: str
    name: str
    content: bytes = b""


@contextlib.contextmanager
def open_media(file: StoredFile) -> Iterator[Path | BinaryIO]:
    """The path of a local file, whether or not it exists; else a file object that can seek.

    Whatever goes wrong while a file object is read is an InputError too.

    Raises:
        InputError: it leads out of its root, or a remote one cannot be opened or cannot seek.
    """
    if file.content:
        with io.BytesIO(file.content) as stream:
            stream.name = file.name
            yield stream
    elif is_remote(file.root):
        with open_binary(_remote_inside(file.root, file.name)) as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(0)
            yield stream
    else:
        yield resolve_inside(file.root, file.name)


def fingerprint(file: StoredFile) -> str:
    """Names a file; another text as soon as its bytes change, as far as its storage tells.

    Raises:
        InputError: there is no such file, or it leads out of its root.
    """
    if file.content:
        return hashlib.sha256(file.content).hexdigest()
    if is_remote(file.root):
        url = _remote_inside(file.root, file.name)
        return f"{url}\0{version(url)}"
    path = resolve_inside(file.root, file.name)
    with _told(str(path)):
        stat = path.stat()
    return f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}"


def matching(pattern: str) -> list[str]:
    """The files that a pattern with `*`, `?` or `[` names, sorted.

    Raises:
        InputError: none, or an HTTP server, which does not list its files.
    """
    if not is_remote(pattern):
        found = sorted(glob.glob(pattern))
    elif is_web(pattern):
        raise InputError(
            f"Data files {redact_url(pattern)}: an HTTP server does not list its files, so name"
            " them by a brace list."
        )
    else:
        with _told(pattern):
            system, path = _filesystem(pattern)
            found = [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
    if not found:
        raise InputError(f"Data files {redact_url(pattern)}: no file matches, check data.path.")
    return found


@contextlib.contextmanager
def open_binary(file: str) -> Iterator[BinaryIO]:
    """A file, near or far, to read.

    Raises:
        InputError: it cannot be opened or, if it is remote, read.
    """
    with _told(file):
        if is_remote(file):
            system, path = _filesystem(file)
            raw = _RemoteFile(system.open(path, "rb", block_size=_BLOCK), file)
        else:
            raw = io.FileIO(file)
    with io.BufferedReader(raw) as stream:
        yield stream


def fetch(url: str, *, folder: Path, version: str) -> Path:
    """A local copy in `folder` of a remote file, made when it is first asked for.

    Processes may race: one copies, the others wait. `version` tells copies of changed files apart.

    Raises:
        InputError: it cannot be read, or not be written.
    """
    named = hashlib.sha256(f"{url}\0{version}".encode()).hexdigest()[:16]
    copy = folder / f"{named}-{PurePosixPath(urlsplit(url).path).name}"
    if copy.exists():
        return copy
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(f"{copy}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                with open_binary(url) as source, _partial(copy) as target:
                    shutil.copyfileobj(source, target, _BLOCK)
    except OSError as error:
        raise InputError(
            f"A copy of {redact_url(url)} cannot be written to {folder} ({error}): set"
            " data.cache_dir to a folder that can."
        ) from error
    return copy


def version(url: str) -> str:
    """Tells a changed remote file from what it was, as far as its storage tells.

    Raises:
        InputError: there is no such file.
    """
    with _told(url):
        system, path = _filesystem(url)
        info = system.info(path)
        # A tag is of the bytes; what else there is may change with the time of writing.
        tag = info.get("ETag") or info.get("etag")
        told = [tag] if tag else [system.ukey(path), info.get("Last-Modified")]
        return " ".join(map(str, [info.get("size"), *told]))


def resolve_inside(root: str | Path, name: str) -> Path:
    """The file `name` under `root`, links followed.

    Raises:
        InputError: it lies outside of `root`.
    """
    root = Path(root).resolve()
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name} in {root} leads nowhere ({error}): mend the link.") from error
    if not path.is_relative_to(root):
        raise InputError(
            f"{name} leads out of its folder {root}: data files may only name files inside it, so"
            " move the file there."
        )
    return path


def _remote_inside(root: str, name: str) -> str:
    """The URL of `name` under `root`."""
    if escapes_root(name):
        raise InputError(
            f"{name} leads out of its place {redact_url(root)}: data files may only name files"
            " inside it, so move the file there."
        )
    path = str(PurePosixPath(name))
    return f"{root.rstrip('/')}/{quote(path) if is_web(root) else path}"


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's filesystem, and the name that a file has there."""
    import fsspec

    return fsspec.core.url_to_fs(url)


@contextlib.contextmanager
def _told(place: str) -> Iterator[None]:
    """Each library has errors of its own; all become an InputError that names the place."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise _not_found(place, error) from error
    except ImportError as error:
        raise InputError(
            f"{redact_url(place)} needs a package that is not installed ({error}): pip install"
            " 'vxlpro_jax[remote]'."
        ) from error
    except (TypeError, AttributeError, NameError, AssertionError):
        raise  # A mistake in a call; it tells nothing about the place.
    except Exception as error:  # The libraries' errors have no common type.
        raise _unreadable(place, error) from error


def _not_found(place: str, error: FileNotFoundError) -> BadFile:
    """What it says, unless a server said something else or nothing: fsspec then raises it too."""
    cause = error.__cause__
    if isinstance(cause, OSError) or getattr(cause, "status", 404) not in (404, 410):
        return _unreadable(place, cause)
    return BadFile(f"File {redact_url(place)} does not exist: check its name.", kind="missing")


def _unreadable(place: str, error: Exception) -> BadFile:
    reason = f"{type(error).__name__}: {error}".replace(place, redact_url(place)).rstrip(": ")
    return BadFile(
        f"File {redact_url(place)} cannot be read ({reason}): check its name, its server and your"
        " right to read it.",
        kind="unreadable",
    )


class _RemoteFile(io.RawIOBase):
    """fsspec's file, whose errors are told."""

    def __init__(self, file: Any, url: str):
        super().__init__()
        self._file = file
        self._url = url

    @property
    def name(self) -> str:
        return redact_url(self._url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with _told(self._url):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _told(self._url):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        with _told(self._url):
            return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` when it is whole."""
    handle, partial = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
