"""Samples of JSON and JSONL files, validated once and then stored compactly.

As Python objects a record takes about a kilobyte, and records would be sent to a worker process one
by one; here all records of a file share one buffer.
"""

import contextlib
import gzip
import itertools
import json
import pickle
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from vxlpro_jax.data.sources import storage
from vxlpro_jax.data.sources.file_report import FileReport
from vxlpro_jax.data.sources.paths import redact_url
from vxlpro_jax.data.sources.schema import Record, RecordSequence
from vxlpro_jax.data.text.chat import Turn
from vxlpro_jax.utils.errors import InputError, short_repr

_LONGEST_LINE = 64 << 20  # Bytes.
_MOST_UNPACKED = 512 << 20  # Bytes of a decompressed list, which is held in memory as a whole.

_Stream = BinaryIO | gzip.GzipFile


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object without repeated names; the standard library silently takes the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"field {short_repr(names.most_common(1)[0][0])} is given twice")
    return fields


_decoder = json.JSONDecoder(object_pairs_hook=_unique)
_blanks = re.compile(r"[ \t\r\n]*")


class JsonRecords(RecordSequence):
    """The records of one file, in order.

    Args:
        file: path or URL of a JSON list, or of JSONL if its name ends in `.jsonl` or `.ndjson`, in
            upper or lower case; a further `.gz` means that the file is compressed.
        check: function that validates a sample, see `schema.check_record`.
        keep: function that decides whether a record is kept.
        video_root: root of the videos.
        image_root: root of the pictures.

    Raises:
        InputError: The file or records cannot be used; the message names file, record and field of
            the first ten mistakes.
    """

    def __init__(
        self,
        file: str,
        *,
        check: Callable[[Any, str], Record],
        keep: Callable[[Record], bool],
        video_root: str,
        image_root: str,
    ):
        self._file, self._roots = f"{redact_url(file)}, ", (video_root, image_root)
        self._packed, self._ends = bytearray(), array("q", [0])
        report = FileReport(redact_url(file))
        for place, sample in _samples(file):
            try:
                record = check(_parsed(sample), f"{self._file}{place}")
            except InputError as error:
                report.add_fault(error)
                continue
            report.add_sample(sample)
            if keep(record):
                self._packed += self._pack(record)
                self._ends.append(len(self._packed))
        report.finish()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def outline(self, index: int) -> Record:
        """Returns the record itself."""
        return self[index]

    def __getitem__(self, index: int) -> Record:
        start, end = self._ends[index], self._ends[index + 1]
        name, turns, *rest = pickle.loads(memoryview(self._packed)[start:end])
        record = Record(self._file + name, tuple(map(Turn._make, turns)), *rest)
        return record._replace(root=self._roots[0 if record.video else 1])

    def _pack(self, record: Record) -> bytes:
        name, turns, *rest = record
        packed = (name.removeprefix(self._file), tuple(map(tuple, turns)), *rest)
        return pickle.dumps(packed, protocol=5)


def _parsed(sample: Any) -> Any:
    """Returns a sample, or raises the error that says why its line could not be parsed."""
    if isinstance(sample, InputError):
        raise sample
    return sample


def _samples(file: str) -> Iterator[tuple[str, Any]]:
    """Yields the position of each sample with the sample, or with the InputError of its line."""
    named, name = redact_url(file), file.partition("?")[0].lower()
    is_packed = name.endswith(".gz")
    with storage.open_binary(file) as stored:
        stream = gzip.GzipFile(fileobj=stored) if is_packed else stored
        if name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
            yield from _lines(stream, named)
        else:
            most = _MOST_UNPACKED if is_packed else None
            for index, sample in enumerate(_elements(stream, f"Data file {named}", most=most)):
                yield f"record {index}", sample


def _lines(stream: _Stream, named: str) -> Iterator[tuple[str, Any]]:
    """Yields the number and the content of each line that is not blank."""
    empty = True
    for number in itertools.count(1):
        line = _read(lambda: stream.readline(_LONGEST_LINE + 1), named, limit=_LONGEST_LINE)
        if not line:
            break
        try:
            with _json(f"{named}, line {number},"):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.isspace():
                    continue
                sample = _decoder.decode(text)
        except InputError as error:
            sample = error
        empty = False
        yield f"line {number}", sample
    if empty:
        raise _no_list(f"Data file {named}")


def _read(read: Callable[[], bytes], named: str, *, limit: int | None) -> bytes:
    """Reads from a file that may be compressed."""
    try:
        data = read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{named} is incomplete gzip ({error}): make or copy it again.") from error
    if limit is not None and len(data) > limit:
        raise InputError(
            f"{named} is one JSON text of more than {limit >> 20} MiB: give JSON lines (*.jsonl or"
            " *.jsonl.gz), one sample per line."
        )
    return data


def _elements(stream: _Stream, named: str, *, most: int | None) -> Iterator[Any]:
    """Yields the elements of a JSON list; parsing the list at once would take far more memory."""
    data = _read(lambda: stream.read(-1 if most is None else most + 1), named, limit=most)
    with _json(named):
        text = data.decode("utf-8-sig")
    del data
    start = _skip_blanks(text, 0)
    if not text.startswith("[", start):
        with _json(named):
            json.loads(text)
        raise _no_list(named)
    place = _skip_blanks(text, start + 1)
    if text.startswith("]", place):
        raise _no_list(named)
    while True:
        with _json(named):
            sample, place = _decoder.raw_decode(text, place)
            place = _skip_blanks(text, place)
            more = text.startswith(",", place)
            if not more and not text.startswith("]", place):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
            place = _skip_blanks(text, place + 1)
            if not more and place < len(text):
                raise json.JSONDecodeError("Extra data", text, place)
        yield sample
        if not more:
            return


def _skip_blanks(text: str, place: int) -> int:
    blanks = _blanks.match(text, place)
    assert blanks is not None  # The pattern matches the empty string.
    return blanks.end()


@contextlib.contextmanager
def _json(named: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise InputError(f"{named} is not JSON ({error}): correct it.") from error


def _no_list(named: str) -> InputError:
    return InputError(
        f"{named} holds no samples: give a non-empty JSON list, or a *.jsonl file with one sample"
        " on each line."
    )
