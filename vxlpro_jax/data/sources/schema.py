"""A sample in LLaVA's format: its fields and their validation."""

import abc
import functools
import hashlib
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

from vxlpro_jax.data.random_access import RandomAccess
from vxlpro_jax.data.sources import dialects
from vxlpro_jax.data.sources.paths import escapes_root
from vxlpro_jax.data.sources.storage import StoredFile
from vxlpro_jax.data.text.chat import IMAGE_MARK, Turn, check_image_mark, drop_leading_reply
from vxlpro_jax.utils.errors import InputError, short_repr

# Fields of other formats that change what is shown or learned, and what the user should do.
_CUT = "cut the video and remove the field"
_VISUAL_CHANGES = {
    **dict.fromkeys(("start", "end", "start_time", "end_time", "begin", "clip", "segment"), _CUT),
    **dict.fromkeys(("start_sec", "end_sec", "start_frame", "end_frame", "time_range"), _CUT),
    **dict.fromkeys(("video_start", "video_end", "clip_start", "clip_end"), _CUT),
}
_TEXT_CHANGES = {
    "system": "move its text into the first human turn and remove the field",
    "tools": "remove the field",
}
_LEARNT = "every reply is learnt, so remove it"
_TURN_CHANGES = {"weight": _LEARNT, "loss": _LEARNT, "train": _LEARNT}
# Fields that are understood, or that describe a sample's origin or question.
KNOWN_FIELDS = frozenset(
    (
        *("id", "conversations", "video", "image", "scale", "duration"),
        *("messages", "videos", "images", *_VISUAL_CHANGES, *_TEXT_CHANGES),
        *("source", "data_source", "dataset", "kind"),
    )
)


class RecordSequence(RandomAccess["Record"], abc.ABC):
    """Records that are read when they are accessed."""

    @abc.abstractmethod
    def outline(self, index: int) -> "Record":
        """Returns a record with what `SampleReader.most_groups` needs, without reading a file."""

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the records and their order, independent of where their files are."""
        found = hashlib.sha256()
        for index in range(len(self)):
            record = self[index]
            content = (record.video, record.images, record.scale, record.duration)
            found.update(repr((tuple(map(tuple, record.turns)), content)).encode())
        return found.hexdigest()


class Record(NamedTuple):
    """One sample: a video, pictures or text alone.

    Attributes:
        name: file and position of the sample, for messages.
        turns: turns of the conversation.
        video: path of a video under `root`.
        images: paths of pictures under `root`, shown one after another.
        scale: factor by which time stamps are stretched.
        root: folder or URL of the files.
        content: content of the video file, if it is not under `root`.
        duration: length of the video in seconds, if the sample declares it.
    """

    name: str
    turns: tuple[Turn, ...]
    video: str = ""
    images: tuple[str, ...] = ()
    scale: float = 1.0
    root: str = ""
    content: bytes = b""
    duration: float | None = None

    @property
    def has_visual(self) -> bool:
        """Whether the sample has a video or pictures."""
        return bool(self.video or self.images or self.content)

    @property
    def media(self) -> tuple[StoredFile, ...]:
        """Files that the sample shows: one video, or its pictures in order."""
        if self.content:
            return (StoredFile("", self.name, self.content),)
        names = (self.video,) if self.video else self.images
        return tuple(StoredFile(self.root, name) for name in names)


def check_record(sample: Any, where: str, *, content: bytes = b"") -> Record:
    """Validates a sample that was parsed from JSON.

    The fields are `conversations`; `video` or `image` (a path or a list of paths) or neither; `id`
    (for messages), `scale` and `duration` (seconds). A null field counts as absent, and
    `dialects.in_llava_form` lists the other formats that are accepted. Fields that would change
    what the model sees, such as `start`, are refused; others are ignored. For a list of pictures,
    `<image>` marks the place of all of them; consecutive marks count as one.

    Args:
        sample: parsed sample.
        where: file and position of the sample, for messages.
        content: content of the video file.

    Raises:
        InputError: The sample cannot be used; the message names `where` and the field.
    """
    visual = check_visual(sample, where, content=content)
    where = visual.name
    sample = dialects.in_llava_form(sample, where, has_visual=visual.has_visual)
    _refuse(sample, _TEXT_CHANGES, where)
    turns = _turns(sample.get("conversations"), where)
    if len(visual.images) > 1:
        turns = tuple(turn._replace(text=_one_mark(turn.text)) for turn in turns)
    try:
        places = check_image_mark(drop_leading_reply(turns))
    except InputError as error:
        reason = str(error).rstrip(".")
        raise _wrong(where, "conversations", f"cannot be used. {reason}") from error
    if places != visual.has_visual:
        there = f"has {IMAGE_MARK} but no video or image" if places else f"lacks {IMAGE_MARK}"
        raise _wrong(
            where, "conversations", f"{there}: {IMAGE_MARK} marks the position of the visual"
        )
    return visual._replace(turns=turns)


def check_visual(sample: Any, where: str, *, content: bytes = b"") -> Record:
    """Validates a sample as `check_record` does, but ignores its text, which may be missing."""
    if not isinstance(sample, dict):
        raise _wrong(where, "", f"is {short_repr(sample)}: expected an object")
    where = where if sample.get("id") is None else f"{where} (id {short_repr(sample['id'])})"
    sample = dialects.media_in_llava_form(sample, where)
    _refuse(sample, _VISUAL_CHANGES, where)
    video = _path(sample["video"], "video", where) if "video" in sample else ""
    images = _paths(sample["image"], "image", where) if "image" in sample else ()
    if video and images:
        raise _wrong(where, "image", "cannot be used beside field 'video': keep one of them")
    scale, duration = _scale(sample, where), _duration(sample.get("duration"))
    return Record(where, (), video, images, scale=scale, duration=duration, content=content)


def _one_mark(text: str) -> str:
    return re.sub(rf"{IMAGE_MARK}(\s*{IMAGE_MARK})+", IMAGE_MARK, text)


def _turns(turns: Any, where: str) -> tuple[Turn, ...]:
    if not isinstance(turns, list) or not turns:
        raise _wrong(where, "conversations", f"is {short_repr(turns)}: expected a non-empty list")
    return tuple(_turn(turn, where, i) for i, turn in enumerate(turns))


def _turn(turn: Any, where: str, index: int) -> Turn:
    field = "conversations"
    if not isinstance(turn, dict):
        raise _wrong(where, f"{field}[{index}]", f"is {short_repr(turn)}: expected an object")
    _refuse(turn, _TURN_CHANGES, where)
    role, text = turn.get("from"), turn.get("value")
    if role not in ("human", "gpt"):
        field = f"{field}[{index}].from"
        raise _wrong(where, field, f"is {short_repr(role)}: expected 'human' or 'gpt'")
    if not _is_text(text):
        raise _wrong(where, f"{field}[{index}].value", f"is {short_repr(text)}: expected text")
    return Turn(role, text)


def _is_text(value: Any) -> TypeGuard[str]:
    """Returns whether a value is valid text; a lone surrogate, which JSON can hold, is not."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _paths(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        return (_path(value, key, where),)
    if not value:
        raise _wrong(where, key, "is []: expected a path or a non-empty list of paths")
    return tuple(_path(name, f"{key}[{i}]", where) for i, name in enumerate(value))


def _path(name: Any, field: str, where: str) -> str:
    if not _is_text(name) or not name or "\0" in name:
        raise _wrong(where, field, f"is {short_repr(name)}: expected one file's path")
    if escapes_root(name):
        root = f"data.{field.partition('[')[0]}_root"
        raise _wrong(where, field, f"is {short_repr(name)}: expected a path inside {root}")
    return name.replace("\\", "/")  # Windows writes such paths.


def _refuse(fields: dict, changes: Mapping[str, str], where: str) -> None:
    """Raises InputError for a field that would change the sample and is not supported."""
    for field, value in fields.items():
        if field in changes and value is not None:
            shown = short_repr(value)
            raise _wrong(where, field, f"is {shown}, which is not supported: {changes[field]}")


def _scale(sample: dict, where: str) -> float:
    scale = sample.get("scale", 1.0)
    if not _is_positive(scale):
        raise _wrong(where, "scale", f"is {short_repr(scale)}: expected a number above 0")
    return float(scale)


def _duration(value: Any) -> float | None:
    """Returns the duration; None if the value is not a time, since data files may hold any text."""
    return float(value) if _is_positive(value) else None


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= sys.float_info.max


def _wrong(where: str, field: str, what: str) -> InputError:
    named = f"field {field!r} " if field else ""
    return InputError(f"{where}: {named}{what}.")
