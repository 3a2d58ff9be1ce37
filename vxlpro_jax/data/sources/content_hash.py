"""What media files hold, told by hashes of their bytes, for which each is read in full only once.

A folder of JSON lines remembers the hash of each file that had a certain fingerprint (path or URL,
and size and time or tag). Copies of a file have the same hash, and so has one that was moved.
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

_BLOCK = 1 << 20  # Bytes that are read at a time.


def media_name(media: Sequence[StoredFile]) -> bytes:
    """16 bytes that stand for the paths or URLs of a record's files."""
    text = "\0".join(f"{file.root}\0{file.name}" for file in media)
    return hashlib.sha256(text.encode()).digest()[:16]


def visual_key(contents: Sequence[str], *, reading: str) -> str:
    """Names what files of such contents show, in this order and read in such a way.

    Args:
        contents: their hashes.
        reading: how, as `SampleReader.reading` tells.

    Returns:
        32 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps([contents, reading]).encode()).hexdigest()[:32]


def content_hash(content: bytes) -> str:
    """Of a file's bytes: 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class ContentHashes:
    """Content hashes of files; threads may share it, and any number of processes its folder."""

    def __init__(self, folder: Path):
        """Reads what earlier runs have learned.

        Raises:
            OSError: the folder cannot be made or read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._known = {}
        for file in folder.glob("*.jsonl"):
            self._known |= dict(_entries(file))
        self._own = folder / f"{uuid.uuid4().hex}.jsonl"
        self._asked: dict[StoredFile, Future[str]] = {}
        self._lock = threading.Lock()

    def __call__(self, file: StoredFile) -> str:
        """The `content_hash` of a file; of a folder of frames, one of their names and bytes.

        Its storage is asked for its fingerprint once, however often this is called.

        Raises:
            InputError: it cannot be read.
            OSError: what was learned cannot be written.
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
    """Fingerprints and hashes; a line that a dying process left unfinished is passed over."""
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            yield entry["seen"], entry["content"]
        except (ValueError, LookupError, TypeError):
            continue


def _members(file: StoredFile) -> list[StoredFile]:
    """The file itself, or those in it if it is a folder of frames."""
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
    """What the system says about a file becomes a fault of that file."""
    try:
        yield
    except OSError as error:
        raise BadFile(
            f"File {file.name} cannot be read ({error.strerror}): check rights, disk and network.",
            kind="unreadable",
        ) from error
