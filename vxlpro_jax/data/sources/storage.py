"""Opens local and remote files for reading, restricted to their root.

fsspec opens URLs; its libraries (aiohttp, s3fs, gcsfs) take credentials, endpoints and time limits
from their usual environment variables.
"""

import contextlib
import errno
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
from vxlpro_jax.utils.files import check_regular

_BLOCK = 4 << 20  # Bytes per request.


class StoredFile(NamedTuple):
    """A video or picture: the file `name` under `root`, or its content."""

    root: str
    name: str
    content: bytes = b""


@contextlib.contextmanager
def open_media(file: StoredFile) -> Iterator[Path | BinaryIO]:
    """Yields the path of a local file, whether or not it exists, or else a seekable file object.

    Errors while reading the file object are InputErrors too.

    Raises:
        InputError: The file is outside its root, or a remote file cannot be opened or is not
            seekable.
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
    """Identifies a file by a text that changes with its content, as far as the storage can tell.

    Raises:
        InputError: The file does not exist or is outside its root.
    """
    if file.content:
        return hashlib.sha256(file.content).hexdigest()
    if is_remote(file.root):
        url = _remote_inside(file.root, file.name)
        return f"{url}\0{version(url)}"
    path = resolve_inside(file.root, file.name)
    with _input_errors(str(path)):
        stat = path.stat()
    return f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}"


def matching(pattern: str) -> list[str]:
    """Returns the files that match a pattern with `*`, `?` or `[`, sorted.

    Raises:
        InputError: No file matches, or the pattern is on an HTTP server, which cannot list files.
    """
    if not is_remote(pattern):
        found = sorted(glob.glob(pattern))
    elif is_web(pattern):
        raise InputError(
            f"Data files {redact_url(pattern)}: an HTTP server does not list its files, so name"
            " them by a brace list."
        )
    else:
        with _input_errors(pattern):
            system, path = _filesystem(pattern)
            found = [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
    if not found:
        raise InputError(f"Data files {redact_url(pattern)}: no file matches, check data.path.")
    return found


@contextlib.contextmanager
def open_binary(file: str) -> Iterator[BinaryIO]:
    """Opens a local or remote file for reading.

    Raises:
        InputError: The file cannot be opened, or a remote file cannot be read.
    """
    with _input_errors(file):
        if is_remote(file):
            system, path = _filesystem(file)
            raw = _RemoteFile(system.open(path, "rb", block_size=_BLOCK), file)
        else:
            check_regular(Path(file), what="Data file")
            raw = io.FileIO(file)
    with io.BufferedReader(raw) as stream:
        yield stream


def fetch(url: str, *, folder: Path, version: str) -> Path:
    """Returns a local copy in `folder` of a remote file, which is copied on first use.

    If several processes ask, one copies and the others wait. `version` distinguishes copies of
    changed files.

    Raises:
        InputError: The file cannot be read, or the copy cannot be written.
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
            " data.cache_dir to a writable folder."
        ) from error
    return copy


def version(url: str) -> str:
    """Identifies the version of a remote file, as far as the storage can tell.

    Raises:
        InputError: The file does not exist.
    """
    with _input_errors(url):
        system, path = _filesystem(url)
        info = system.info(path)
        # An ETag depends on the content; other metadata may change with the time of writing.
        tag = info.get("ETag") or info.get("etag")
        parts = [tag] if tag else [system.ukey(path), info.get("Last-Modified")]
        return " ".join(map(str, [info.get("size"), *parts]))


def resolve_inside(root: str | Path, name: str) -> Path:
    """Returns the path of a file or folder of frames `name` under `root`, with links resolved.

    Raises:
        InputError: The path, or a link in the folder, leads out of `root`.
    """
    root = Path(root).resolve()
    path = _resolved(root, name)
    if os.path.isdir(path):  # False, not an error, for a name of any length.
        with os.scandir(path) as found:
            links = sorted(entry.name for entry in found if entry.is_symlink())
        for link in links:
            _resolved(root, f"{name}/{link}")
    return path


def _resolved(root: Path, name: str) -> Path:
    try:
        path = (root / name).resolve()
        if _is_loop(path):  # Python 3.13 and later do not raise by themselves.
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name} in {root} is a broken link ({error}): correct it.") from error
    if not path.is_relative_to(root):
        raise InputError(
            f"{name} leads out of its folder {root}: data files may only name files inside it, so"
            " move the file there."
        )
    return path


def _is_loop(path: Path) -> bool:
    """Returns whether links on the path form a loop."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _remote_inside(root: str, name: str) -> str:
    """Returns the URL of `name` under `root`."""
    if escapes_root(name):
        raise InputError(
            f"{name} leads out of its folder {redact_url(root)}: data files may only name files"
            " inside it, so move the file there."
        )
    path = str(PurePosixPath(name))
    return f"{root.rstrip('/')}/{quote(path) if is_web(root) else path}"


def _filesystem(url: str) -> tuple[Any, str]:
    """Returns fsspec's filesystem for a URL, and the path of the file in it."""
    import fsspec

    return fsspec.core.url_to_fs(url)


@contextlib.contextmanager
def _input_errors(place: str) -> Iterator[None]:
    """Converts the errors of all libraries to an InputError that names the file."""
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
        raise  # A mistake in a call, which says nothing about the file.
    except Exception as error:  # The libraries' errors have no common type.
        raise _unreadable(place, error) from error


def _not_found(place: str, error: FileNotFoundError) -> BadFile:
    """Makes a missing-file error, or another error if the server gave a different answer.

    fsspec raises FileNotFoundError in both cases.
    """
    cause = error.__cause__
    if isinstance(cause, OSError) or getattr(cause, "status", 404) not in (404, 410):
        return _unreadable(place, cause if isinstance(cause, Exception) else error)
    return BadFile(f"File {redact_url(place)} does not exist: check its name.", kind="missing")


def _unreadable(place: str, error: Exception) -> BadFile:
    reason = f"{type(error).__name__}: {error}".replace(place, redact_url(place)).rstrip(": ")
    return BadFile(
        f"File {redact_url(place)} cannot be read ({reason}): check its name, its server and your"
        " permission to read it.",
        kind="unreadable",
    )


class _RemoteFile(io.RawIOBase):
    """A file of fsspec whose errors become InputErrors."""

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
        with _input_errors(self._url):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _input_errors(self._url):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        with _input_errors(self._url):
            return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that is renamed to `path` when it is complete."""
    handle, partial = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
