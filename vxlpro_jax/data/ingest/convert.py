"""Converts one source shard to one ArrayRecord file, in a worker process."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from vxlpro_jax.data.ingest import tfrecord
from vxlpro_jax.data.ingest.tfrecord import DamagedShard, Example, SourceShard, UnreachableShard
from vxlpro_jax.data.ingest.workers import IngestError, ReportBytes
from vxlpro_jax.data.sources import arrayrecord_format as records
from vxlpro_jax.data.sources.paths import redact_url

T = TypeVar("T")

_RETRY_PAUSES = (1, 4, 16)  # Seconds before each further attempt to reach a source.
_MOST_READS = 4  # Reads of a shard whose damage appears at a different place in each read.
_REPORT_BYTES = 4 << 20
_OPTIONS = "group_size:1,uncompressed"  # Random access; videos are compressed already.


class ConversionTask(NamedTuple):
    """A source shard, and the `file` to which its valid records are written."""

    shard: SourceShard
    file: str

    def __str__(self):
        return redact_url(self.shard.url)


class ConvertedShard(NamedTuple):
    """The result of converting one source shard.

    Attributes:
        ids: ids of the kept records, in order.
        bad: position, kind and reason of each record that was left out.
        damage: reason why the source could not be read to its end, or "".
        read_bytes: source bytes up to the damage.
        bytes: size of the output file.
        sha256: SHA-256 of the output file.
    """

    ids: list[str]
    bad: list[tuple[int, str, str]]
    damage: str
    read_bytes: int
    bytes: int
    sha256: str


def find_shards(pattern: str, report_bytes: ReportBytes) -> list[str]:
    """Calls `tfrecord.find_shards`, with retries."""
    del report_bytes
    return _with_retries(lambda: tfrecord.find_shards(pattern))


def shard_size(url: str, report_bytes: ReportBytes) -> int:
    """Calls `tfrecord.shard_size`, with retries."""
    del report_bytes
    return _with_retries(lambda: tfrecord.shard_size(url))


def convert_shard(task: ConversionTask, report_bytes: ReportBytes) -> ConvertedShard:
    """Writes the valid records of a source.

    Damage is accepted only if two reads in a row find the same damage, since a network may corrupt
    data too.
    """
    damage = ""
    for _ in range(_MOST_READS):
        part = _with_retries(lambda: _read_and_write(task, report_bytes))
        if part.damage == damage:
            return part
        damage = part.damage
    raise IngestError(
        f"{task} shows damage at a different place each time it is read: check the network and"
        " start the command again."
    )


def _read_and_write(task: ConversionTask, report_bytes: ReportBytes) -> ConvertedShard:
    examples = tfrecord.read_examples(task.shard)
    return write_shard(examples, file=Path(task.file), report_bytes=report_bytes)


def write_shard(
    examples: Iterable[Example], *, file: Path, report_bytes: ReportBytes
) -> ConvertedShard:
    """Writes the valid records among `examples` to an ArrayRecord file.

    Args:
        examples: records of a source shard.
        file: path of the output.
        report_bytes: function that is called with the number of bytes read since the last call.
    """
    positions, bad, damage = {}, [], ""
    read_bytes = reported = 0
    with _writer(file) as write:
        try:
            for position, example in enumerate(examples):
                try:
                    record = _validated(example, positions)
                    positions[record.id] = position
                    write(records.encode_record(record))
                except records.BadRecord as error:
                    bad.append((position, error.kind, str(error)))
                read_bytes += example.bytes
                if read_bytes - reported >= _REPORT_BYTES:
                    report_bytes(read_bytes - reported)
                    reported = read_bytes
        except DamagedShard as error:
            damage = str(error)
    report_bytes(read_bytes - reported)
    return ConvertedShard(list(positions), bad, damage, read_bytes, *size_and_sha256(file))


def _validated(example: Example, positions: dict[str, int]) -> records.IngestedRecord:
    if isinstance(example.fields, records.BadRecord):
        raise example.fields
    record = records.validate_fields(**example.fields)
    if record.id in positions:
        where = f"record {positions[record.id]} of the same shard"
        raise records.BadRecord("duplicate", f"has the id {record.id!r} of {where}")
    return record


def _with_retries(work: Callable[[], T]) -> T:
    for pause in _RETRY_PAUSES:
        try:
            return work()
        except UnreachableShard:
            time.sleep(pause)
    try:
        return work()
    except UnreachableShard as error:
        raise IngestError(f"{error}. Start the same command again to continue.") from error


@contextlib.contextmanager
def _writer(file: Path) -> Iterator[Callable[[bytes], None]]:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(file), _OPTIONS)
    try:
        yield lambda record: _written(lambda: writer.write(record))
    finally:
        _written(writer.close)


def _written(work: Callable[[], None]) -> None:
    try:
        work()
    except RuntimeError as error:
        raise IngestError(
            f"Writing failed ({error}): free disk space, then start the same command again."
        ) from error


def copy_records(source: Path, target: Path, *, keep: Sequence[bool]) -> None:
    """Copies the records for which `keep` is true from one ArrayRecord file to another."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(source))
    with _writer(target) as write:
        for index, kept in enumerate(keep):
            if kept:
                write(reader.read([index])[0])
    reader.close()


def size_and_sha256(file: Path) -> tuple[int, str]:
    """Returns the size of a file in bytes and its SHA-256."""
    with open(file, "rb") as stream:
        return file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
