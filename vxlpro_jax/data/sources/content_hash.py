"""Content hashes of media files, for which each file is read only once.

A folder of JSON lines maps fingerprints (path or URL, with size and time or ETag) to hashes. Copies
of a file have the same hash, and moving a file does not change it.
"""

import contextlib
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.sources.paths import is_remote
from vxlpro_jax.data.sources.storage import (
    StoredFile,
    fingerprint,
    open_binary,
    open_media,
    resolve_inside,
)

_BLOCK = 1 << 20  # Bytes read at a time.


def media_name(media: Sequence[StoredFile]) -> bytes:
    """Returns 16 bytes that identify the paths or URLs of a record's files."""
    text = "\0".join(f"{file.root}\0{file.name}" for file in media)
    return hashlib.sha256(text.encode()).digest()[:16]


def visual_key(contents: Sequence[str], *, reading: str) -> str:
    """Returns 32 hexadecimal digits that identify decoded visuals.

    Args:
        contents: content hashes of the files, in order.
        reading: how the files are decoded, see `SampleReader.reading`.
    """
    return hashlib.sha256(json.dumps([contents, reading]).encode()).hexdigest()[:32]


def content_hash(content: bytes) -> str:
    """Returns the SHA-256 of a file's content, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class ContentHashes:
    """Content hashes of files; threads may share an instance, processes its folder."""

    def __init__(self, folder: Path):
        """Reads the hashes that earlier runs have stored.

        Raises:
            OSError: The folder cannot be created or read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._known = {}
        for file in folder.glob("*.jsonl"):
            self._known |= dict(_entries(file))
        self._own = folder / f"{uuid.uuid4().hex}.jsonl"
        self._asked: dict[StoredFile, Future[str]] = {}
        self._lock = threading.Lock()

    def __call__(self, file: StoredFile) -> str:
        """Returns the `content_hash` of a file, or a hash of all names and contents of a folder.

        The storage is queried for a file's fingerprint only once per instance.

        Raises:
            InputError: The file cannot be read.
            OSError: The hash cannot be stored.
        """
        if file.content:
            return content_hash(file.content)
        with self._lock:
            is_first = file not in self._asked
            asked = self._asked.setdefault(file, Future())
        if is_first:
            try:
                asked.set_result(self._look_up(file))
            except BaseException as error:
                asked.set_exception(error)
        return asked.result()

    def _look_up(self, file):
        members = _members(file)
        seen = content_hash("\n".join(map(fingerprint, members)).encode())
        if seen not in self._known:
            hashes = [_hash(member) for member in members]
            if members != [file]:
                names = [member.name.rpartition("/")[2] for member in members]
                hashes = [content_hash(json.dumps([names, hashes]).encode())]
            self._learn(seen, hashes[0])
        return self._known[seen]

    def _learn(self, seen, content):
        line = json.dumps({"seen": seen, "content": content})
        with self._lock, self._own.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        self._known[seen] = content


def _entries(file: Path) -> Iterator[tuple[str, str]]:
    """Yields fingerprints and hashes; skips a line left unfinished by a killed process."""
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            yield entry["seen"], entry["content"]
        except (ValueError, LookupError, TypeError):
            continue


def _members(file: StoredFile) -> list[StoredFile]:
    """Returns the file itself, or the files in a folder of frames."""
    if is_remote(file.root):
        return [file]
    path = resolve_inside(file.root, file.name)
    with _reading(file):
        if not path.is_dir():
            return [file]
        with os.scandir(path) as found:
            names = sorted(x.name for x in found if x.is_file() and not x.name.startswith("."))
    return [file._replace(name=f"{file.name}/{name}") for name in names]


def _hash(file: StoredFile) -> str:
    with _reading(file), open_media(file) as found:
        if not isinstance(found, Path):
            return _digest(found)
        with open_binary(str(found)) as stream:
            return _digest(stream)


def _digest(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _reading(file: StoredFile) -> Iterator[None]:
    """Converts an OSError to a fault of the file."""
    try:
        yield
    except OSError as error:
        raise BadFile(
            f"File {file.name} cannot be read ({error.strerror}): check rights, disk and network.",
            kind="unreadable",
        ) from error
