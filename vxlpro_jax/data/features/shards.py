"""ArrayRecord shards of features; a visual is a sequence of records of a few groups each.

Each shard `NAME.arrayrecord` has an index `NAME.json` beside it, which is written last: a shard
without an index is unfinished. Each process writes its own shards, so any number of processes may
write to one folder.
"""

import contextlib
import fcntl
import json
import logging
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from vxlpro_jax.data.features.blocks import GroupType, Visual, check_blocks, rebatch
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import write_atomically

log = logging.getLogger(__name__)

SHARD = ".arrayrecord"

_INDEX = ".json"
_RECORD_BYTES = 4 << 20  # Largest record, unless a single group is larger.
_WRITING = "group_size:1,uncompressed"  # Random access; such noisy features do not compress.
_READING = "readahead_buffer_size:0,max_parallelism:0"  # Recommended for random access.


class VisualLocation(NamedTuple):
    """Where a visual is stored.

    Attributes:
        shard: path of the shard.
        first: index of its first record in the shard.
        groups: number of groups g.
        per_record: number of groups in each record except the last.
    """

    shard: Path
    first: int
    groups: int
    per_record: int


class ShardWriter:
    """Writes one shard, whose visuals become readable after `finish`."""

    def __init__(self, folder: Path, *, kind: GroupType):
        """Creates an empty shard.

        Raises:
            OSError: The shard cannot be written.
        """
        self.bytes = 0
        self._kind, self._per_record = kind, max(1, _RECORD_BYTES // kind.bytes)
        self._shard = folder / f"{uuid.uuid4().hex}{SHARD}"
        self._partial = self._shard.with_name(f"{self._shard.name}.tmp")
        self._visuals: dict[str, tuple[int, int]] = {}
        self._records = 0
        # The file is locked before it gets a name that `remove_unused` considers.
        nameless = folder / f"{self._shard.stem}.new"
        self._lock = nameless.open("wb")
        with contextlib.suppress(OSError):  # Without locks, `remove_unused` removes nothing.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        nameless.rename(self._partial)
        with _writing():
            self._writer = ArrayRecordWriter(str(self._partial), _WRITING)

    def write(self, key: str, blocks: Iterable[Visual]) -> None:
        """Adds a visual block by block; a visual that fails midway is not added.

        Raises:
            OSError: The shard cannot be written.
            ValueError: A block has another type.
        """
        first, groups = self._records, 0
        for block in rebatch(check_blocks(blocks, kind=self._kind), self._per_record):
            data = block.to_bytes()
            with _writing():
                self._writer.write(data)
            self._records += 1
            self.bytes += len(data)
            groups += len(block.groups)
        self._visuals[key] = (first, groups)

    def finish(self) -> None:
        """Writes the index.

        Raises:
            OSError: The index cannot be written.
        """
        with self._lock:
            with _writing():
                self._writer.close()
            self._partial.rename(self._shard)
            index = {
                **self._kind._asdict(),
                "bytes": self._shard.stat().st_size,
                "per_record": self._per_record,
                "visuals": self._visuals,
            }
            write_atomically(self._shard.with_suffix(_INDEX), json.dumps(index))


def find_indices(folder: Path) -> list[Path]:
    """Returns the indices of finished shards in a stable order."""
    return sorted(folder.glob(f"*{_INDEX}"))


def read_index(index: Path, *, kind: GroupType) -> dict[str, VisualLocation]:
    """Returns the location of each visual in a shard; none, with a warning, if it is damaged."""
    shard = index.with_suffix(SHARD)
    try:
        stored = json.loads(index.read_text(encoding="utf-8"))
        if GroupType(tuple(stored["shape"]), stored["dtype"]) != kind:
            raise ValueError(f"it holds {stored['dtype']} {stored['shape']}")
        if (size := shard.stat().st_size) != stored["bytes"]:
            raise ValueError(f"it has {size} bytes instead of {stored['bytes']}")
        return {
            key: VisualLocation(shard, first, groups, stored["per_record"])
            for key, (first, groups) in stored["visuals"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("Features in %s are ignored and computed again: %s", shard, error)
        return {}


def remove_unused(folder: Path, *, kind: GroupType) -> None:
    """Removes damaged shards, and unfinished shards of processes that no longer run.

    Files that cannot be locked or removed are left in place; they only take disk space.
    """
    for shard in folder.glob(f"*{SHARD}*"):
        index = folder / f"{shard.name.partition('.')[0]}{_INDEX}"
        with contextlib.suppress(OSError), shard.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Fails while it is being written.
            if not (index.exists() and read_index(index, kind=kind)):
                shard.unlink()
    for index in find_indices(folder):
        if not index.with_suffix(SHARD).exists():
            with contextlib.suppress(OSError):
                index.unlink()


def open_shard(shard: Path) -> ArrayRecordReader:
    """Opens a shard for `read_blocks`.

    Raises:
        InputError: The shard cannot be opened.
    """
    reader = ArrayRecordReader(str(shard), _READING)
    if not reader.ok():
        _record(reader, 0, shard=shard)  # Raises an error that gives the reason.
    return reader


def read_blocks(
    reader: ArrayRecordReader, span: VisualLocation, *, kind: GroupType
) -> Iterator[Visual]:
    """Yields the blocks of a visual as read-only arrays.

    If the shard turns out to be damaged, its index is removed, so that its visuals count as
    missing.

    Raises:
        InputError: The shard cannot be read.
    """
    for start in range(0, span.groups, span.per_record):
        groups = min(span.per_record, span.groups - start)
        record = span.first + start // span.per_record
        data = _record(reader, record, shard=span.shard)
        if len(data) != groups * kind.bytes:
            raise _damaged(span.shard, f"record {record} has {len(data)} bytes")
        yield kind.from_bytes(data)


def _record(reader, record, *, shard):
    if reader.ok() and record >= reader.num_records():
        raise _damaged(shard, f"there is no record {record}")
    try:
        return reader.read([record])[0]
    except RuntimeError as error:
        if "Corrupted" in str(error):
            raise _damaged(shard, str(error)) from error
        raise InputError(
            f"Features in {shard} cannot be read ({error}): check the disk, or remove the file so"
            " that they are computed again."
        ) from error


def _damaged(shard: Path, reason: str) -> InputError:
    # If the folder is read-only, the shard stays for a process that may write to it.
    with contextlib.suppress(OSError):
        shard.with_suffix(_INDEX).unlink(missing_ok=True)
    return InputError(
        f"Features in {shard} are damaged ({reason}) and no longer used: start the run again to"
        " compute them again."
    )


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Converts the library's errors to OSError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error
