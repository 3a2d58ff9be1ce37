"""Records of the ArrayRecord shards that an ingest wrote; each is read when it is accessed."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordReader

from vxlpro_jax.data.sources import arrayrecord_format as ingested
from vxlpro_jax.data.sources import paths, storage
from vxlpro_jax.data.sources.paths import redact_url
from vxlpro_jax.data.sources.schema import Record, RecordSequence
from vxlpro_jax.utils.errors import InputError

SHARD = ".arrayrecord"
MANIFEST = "manifest.json"

_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # Recommended for random access.


class RecordShard(NamedTuple):
    """An ArrayRecord file.

    Attributes:
        file: path or URL.
        records: number of records.
        version: text that changes with the file's content.
    """

    file: str
    records: int
    version: str = ""


def shards_of_folder(folder: str) -> list[RecordShard]:
    """Returns the shards that the manifest of an ingest lists.

    Raises:
        InputError: The manifest is missing or malformed, or a local shard does not have the listed
            size.
    """
    file = f"{folder.rstrip('/')}/{MANIFEST}"
    with storage.open_binary(file) as stream:
        text = stream.read()
    try:
        entries = [entry for entry in json.loads(text)["shards"] if entry["file"] is not None]
        shards = [_shard(entry, file) for entry in entries]
    except InputError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{redact_url(file)} is not the manifest of an ingest: give the folder that"
            " launch/ingest.sh wrote."
        ) from error
    if not shards:
        raise InputError(
            f"{redact_url(file)} lists no shards, because the ingest kept no record: see its"
            " bad_records.jsonl."
        )
    return shards


def _shard(entry: dict[str, Any], manifest: str) -> RecordShard:
    if paths.escapes_root(entry["file"]):
        raise ValueError("a shard elsewhere")
    file, size = paths.resolve_relative(manifest, entry["file"]), entry["bytes"]
    if not paths.is_remote(file):
        there = os.path.getsize(file) if os.path.isfile(file) else None
        if there != size:
            found = "does not exist" if there is None else f"has {there} bytes"
            raise InputError(
                f"Shard {file} {found}, but its manifest says {size} bytes: copy it again or ingest"
                " again."
            )
    return RecordShard(file, entry["records"], entry["sha256"])


class ShardRecords(RecordSequence):
    """The records of a shard, in order; a remote shard is copied on first access.

    Args:
        shard: shard to read.
        check: function that validates a sample, see `schema.check_record`.
        video_root: root of videos that records refer to by path.
        copies: folder for copies of remote shards.

    Raises:
        InputError: On access, if the shard or the record cannot be read.
    """

    def __init__(
        self, shard: RecordShard, *, check: Callable[..., Record], video_root: str, copies: Path
    ):
        self._shard, self._check = shard, check
        self._video_root, self._copies = video_root, copies
        self._reader: ArrayRecordReader | None = None

    def __len__(self) -> int:
        return self._shard.records

    def __getitem__(self, index: int) -> Record:
        where = f"{redact_url(self._shard.file)}, record {index}"
        reader = self._reader = self._reader or _open(local_copy(self._shard, folder=self._copies))
        try:
            found = ingested.decode_record(reader.read([index])[0])
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{where}: cannot be read. {error}") from error
        held = isinstance(found.video, bytes)
        sample = {"id": found.id, "conversations": list(found.conversations)}
        visual = {} if held else {"video": found.video}
        record = self._check(sample | visual, where, content=found.video if held else b"")
        return record._replace(root=self._video_root)

    def outline(self, index: int) -> Record:
        """Returns a record that only declares that it shows a video; nothing is read."""
        return Record(f"{redact_url(self._shard.file)}, record {index}", (), video="?")

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the shard, without reading it."""
        shard = self._shard
        size = 0 if paths.is_remote(shard.file) else os.path.getsize(shard.file)
        return shard.version or f"{shard.records} records in {size} bytes"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}


def shard_of_file(file: str, *, copies: Path) -> RecordShard:
    """Describes a shard without a manifest.

    Raises:
        InputError: The shard cannot be read.
    """
    version = storage.version(file) if paths.is_remote(file) else ""
    shard = RecordShard(file, 0, version)
    reader = _open(local_copy(shard, folder=copies))
    return shard._replace(records=reader.num_records())


def local_copy(shard: RecordShard, *, folder: Path) -> str:
    """Returns the local path of a shard, after copying it if it is remote.

    Raises:
        InputError: The shard cannot be copied.
    """
    if not paths.is_remote(shard.file):
        return shard.file
    return str(storage.fetch(shard.file, folder=folder, version=shard.version))


def _open(file: str) -> ArrayRecordReader:
    reader = ArrayRecordReader(file, _OPTIONS)
    if not reader.num_records():
        try:
            reader.read([0])
        except RuntimeError as error:
            raise InputError(
                f"Shard {file} cannot be read ({error}): ingest it again or remove it."
            ) from error
    return reader
