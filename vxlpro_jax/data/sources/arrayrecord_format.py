"""Binary format of the records in an ingested ArrayRecord shard, and validation of their fields.

The parts of a record, in order:

* 4 bytes: `VXR1`;
* 4 bytes: length of the header, unsigned, little-endian;
* the header, a JSON object in UTF-8: `id`, `conversations` and either `video` (a path under
  data.video_root) or `video_bytes` (the number of bytes that follow);
* the content of the video file, if the record contains it.

This module needs only the standard library, because ingest writes records where JAX is not
installed.
"""

import json
import struct
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from vxlpro_jax.utils.errors import InputError

IMAGE_MARK = "<image>"

# Paths are shorter than this on every system; a video file is longer or has control characters.
_LONGEST_PATH = 4096

_START = struct.Struct("<4sI")
_MAGIC = b"VXR1"

# Position and value of the signatures of containers that FFmpeg and `data.video` open.
_SIGNATURES = (
    *((4, name) for name in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")),
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG video
    (0, b"GIF87a"),
    (0, b"GIF89a"),
    (0, b"\x93NUMPY"),
)
# Packets of an MPEG transport stream begin with 0x47: (position of the first, distance).
_TRANSPORT = ((0, 188), (4, 192))


class IngestedRecord(NamedTuple):
    """One sample.

    Attributes:
        id: id, unique in its data set.
        conversations: LLaVA's turns, each `{"from": "human" or "gpt", "value": text}`.
        video: content of a video file, or its path under data.video_root.
    """

    id: str
    conversations: tuple[dict[str, str], ...]
    video: bytes | str


class BadRecord(Exception):
    """A record that cannot be used; `kind` is the faulty field, the message is the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def encode_record(record: IngestedRecord) -> bytes:
    """Serializes a record; equal records give equal bytes."""
    held = isinstance(record.video, bytes)
    content = record.video if isinstance(record.video, bytes) else b""
    header = {
        "id": record.id,
        "conversations": record.conversations,
        **({"video_bytes": len(content)} if held else {"video": record.video}),
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join([_START.pack(_MAGIC, len(text)), text, content])


def decode_record(data: bytes) -> IngestedRecord:
    """Restores a record from the bytes that `encode_record` made.

    Raises:
        InputError: The bytes are not a complete record.
    """
    try:
        magic, length = _START.unpack_from(data)
        start = _START.size + length
        header = json.loads(data[_START.size : start])
    except (struct.error, ValueError, RecursionError) as error:
        raise _foreign() from error
    if magic != _MAGIC or not _is_header(header):
        raise _foreign()
    if len(data) - start != header.get("video_bytes", 0):
        raise _foreign()
    video = header["video"] if "video" in header else data[start:]
    return IngestedRecord(header["id"], tuple(header["conversations"]), video)


def _is_header(header: Any) -> bool:
    return (
        isinstance(header, dict)
        and "id" in header
        and isinstance(header.get("conversations"), list)
    )


def validate_fields(*, id: Any, conversations: Any, video: Any) -> IngestedRecord:
    """Makes a record from the three fields of a tf.train.Example: bytes, or an integer for `id`.

    `video` is treated as a path if it is at most 4096 bytes of UTF-8 without control characters,
    and otherwise as the content of a file. Only the fields `from` and `value` of a turn are kept.

    Raises:
        BadRecord: A field is missing or cannot be used.
    """
    return IngestedRecord(_id(id), _turns(conversations), _video(video))


def _id(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    name = _text(value, kind="id")
    if not name or _has_controls(name):
        raise BadRecord("id", f"is {_shown(name)}: expected text without control characters")
    return name


def _turns(value: Any) -> tuple[dict[str, str], ...]:
    kind = "conversations"
    try:
        turns = json.loads(_text(value, kind=kind))
    except (ValueError, RecursionError) as error:
        raise BadRecord(kind, f"is not JSON ({error})") from error
    if not isinstance(turns, list) or not turns:
        raise BadRecord(kind, f"is {_shown(turns)}: expected a non-empty list")
    turns = tuple(_turn(turn, f"[{i}]") for i, turn in enumerate(turns))
    # Training drops a leading reply.
    read = turns[1:] if turns[0]["from"] == "gpt" else turns
    if not read:
        raise BadRecord(kind, "has no human turn")
    if any(IMAGE_MARK in turn["value"] for turn in read if turn["from"] == "gpt"):
        raise BadRecord(kind, f"has {IMAGE_MARK} in a reply: only a human turn may hold it")
    if (places := sum(turn["value"].count(IMAGE_MARK) for turn in read)) != 1:
        raise BadRecord(kind, f"has {IMAGE_MARK} {places} times: it marks the video's place, once")
    return turns


def _turn(turn: Any, where: str) -> dict[str, str]:
    kind = "conversations"
    if not isinstance(turn, dict):
        raise BadRecord(kind, f"{where} is {_shown(turn)}: expected an object")
    role, text = turn.get("from"), turn.get("value")
    if role not in ("human", "gpt"):
        raise BadRecord(kind, f"{where}.from is {_shown(role)}: expected 'human' or 'gpt'")
    if not isinstance(text, str):
        raise BadRecord(kind, f"{where}.value is {_shown(text)}: expected text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(kind, f"{where}.value is not Unicode text ({error.reason})") from error
    return {"from": role, "value": text}


def _video(value: Any) -> bytes | str:
    if not isinstance(value, bytes):
        raise BadRecord("video", _missing(value))
    if not value:
        raise BadRecord("video", "is empty")
    name = _as_path(value)
    if name is not None:
        return _checked_path(name)
    if not _is_container(value):
        raise BadRecord(
            "video", f"begins with {value[:12]!r}, which is not the start of a video container"
        )
    return value


def _as_path(value: bytes) -> str | None:
    if len(value) > _LONGEST_PATH:
        return None
    try:
        name = value.decode()
    except UnicodeDecodeError:
        return None
    return None if _has_controls(name) else name


def _checked_path(name: str) -> str:
    posix = PurePosixPath(name)
    leaves = posix.is_absolute() or PureWindowsPath(name).anchor or "://" in name
    if leaves or ".." in posix.parts or ".." in PureWindowsPath(name).parts:
        raise BadRecord("path", f"is {_shown(name)}: expected a path inside data.video_root")
    return name


def _is_container(data: bytes) -> bool:
    if any(data.startswith(mark, place) for place, mark in _SIGNATURES):
        return True
    return any(
        len(data) > first + 2 * step and all(data[first + step * k] == 0x47 for k in range(3))
        for first, step in _TRANSPORT
    )


def _text(value: Any, *, kind: str) -> str:
    if not isinstance(value, bytes):
        raise BadRecord(kind, _missing(value))
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadRecord(kind, f"is not UTF-8 ({error.reason})") from error


def _missing(value: Any) -> str:
    return "is missing" if value is None else f"is {_shown(value)}: expected bytes"


def _has_controls(text: str) -> bool:
    return any(letter < " " or letter == "\x7f" for letter in text)


def _foreign() -> InputError:
    return InputError(
        "This is not a complete record of an ingest: give the shards that launch/ingest.sh wrote."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
