"""One source shard of an ingest to one ArrayRecord file: what its workers do."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from vxlpro_jax.data.ingest import tfrecord
from vxlpro_jax.data.ingest.tfrecord import Damage, Example, SourceShard, Unreachable
from vxlpro_jax.data.ingest.workers import IngestError, Tell
from vxlpro_jax.data.sources import arrayrecord_format as records
from vxlpro_jax.data.sources.paths import redact_url

T = TypeVar("T")

_PAUSES = (1, 4, 16)  # Seconds between tries of a source that does not answer.
_READINGS = 4  # Of a shard whose damage is elsewhere at each reading.
_TELL_BYTES = 4 << 20
_OPTIONS = "group_size:1,uncompressed"  # Random access; videos are compressed already.


class Task(NamedTuple):
    """A source and the `file` that its good records go to."""

    shard: SourceShard
    file: str

    def __str__(self):
        return redact_url(self.shard.url)


class ConvertedShard(NamedTuple):
    """What became of one source.

    Attributes:
        ids: of the records kept, in order.
        bad: position, kind and reason of those that are not.
        damage: why it could not be read to its end, or nothing.
        read_bytes: of the source, up to the damage.
        bytes: that the file of the records kept has.
        sha256: of that file.
    """

    ids: list[str]
    bad: list[tuple[int, str, str]]
    damage: str
    read_bytes: int
    bytes: int
    sha256: str


def find_shards(pattern: str, tell: Tell) -> list[str]:
    """`tfrecord.find`, tried several times."""
    del tell
    return _patiently(lambda: tfrecord.find_shards(pattern))


def shard_size(url: str, tell: Tell) -> int:
    """`tfrecord.measure`, tried several times."""
    del tell
    return _patiently(lambda: tfrecord.shard_size(url))


def convert_shard(task: Task, tell: Tell) -> ConvertedShard:
    """Writes a source's good records; damage is believed when a second reading finds it too."""
    damage = ""
    for _ in range(_READINGS):
        part = _patiently(lambda: _read_and_write(task, tell))
        if part.damage == damage:
            return part
        damage = part.damage
    raise IngestError(f"{task} is damaged elsewhere each time that it is read: start again.")


def _read_and_write(task: Task, tell: Tell) -> ConvertedShard:
    examples = tfrecord.read_examples(task.shard)
    return write_shard(examples, file=Path(task.file), tell=tell)


def write_shard(examples: Iterable[Example], *, file: Path, tell: Tell) -> ConvertedShard:
    """Writes the good records among `examples` to an ArrayRecord file; `tell` hears bytes read."""
    positions, bad, damage = {}, [], ""
    read_bytes = told = 0
    with _writer(file) as write:
        try:
            for position, example in enumerate(examples):
                try:
                    record = _checked(example, positions)
                    positions[record.id] = position
                    write(records.encode(record))
                except records.BadRecord as error:
                    bad.append((position, error.kind, str(error)))
                read_bytes += example.bytes
                if read_bytes - told >= _TELL_BYTES:
                    tell(read_bytes - told)
                    told = read_bytes
        except Damage as error:
            damage = str(error)
    tell(read_bytes - told)
    return ConvertedShard(list(positions), bad, damage, read_bytes, *size_and_sha256(file))


def _checked(example: Example, positions: dict[str, int]) -> records.Record:
    if isinstance(example.fields, records.BadRecord):
        raise example.fields
    record = records.check(**example.fields)
    if record.id in positions:
        where = f"record {positions[record.id]} of the same shard"
        raise records.BadRecord("duplicate", f"has the id {record.id!r} of {where}")
    return record


def _patiently(work: Callable[[], T]) -> T:
    for pause in _PAUSES:
        try:
            return work()
        except Unreachable:
            time.sleep(pause)
    try:
        return work()
    except Unreachable as error:
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
            f"Writing failed ({error}): make space, then start the same command again."
        ) from error


def copy_records(source: Path, target: Path, *, keep: Sequence[bool]) -> None:
    """Copies those records of an ArrayRecord file to keep."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(source))
    with _writer(target) as write:
        for index, kept in enumerate(keep):
            if kept:
                write(reader.read([index])[0])
    reader.close()


def size_and_sha256(file: Path) -> tuple[int, str]:
    """The bytes that a file has, and their SHA-256."""
    with open(file, "rb") as stream:
        return file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
