"""LLaVA-format JSON to records, checked field by field, and the files that they name."""

import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from vxlpro_jax.config import InputError
from vxlpro_jax.data.chat import IMAGE_MARK, Turn, check_image_mark, drop_leading_reply


class Record(NamedTuple):
    """One sample as its file tells it: at most one of `video` and `image`, relative to its root."""

    name: str
    turns: tuple[Turn, ...]
    video: str = ""
    image: str = ""
    scale: float = 1.0

    @property
    def has_visual(self) -> bool:
        """Whether it is more than text."""
        return bool(self.video or self.image)


def load_visual_records(path: str | Path) -> tuple[Record, ...]:
    """The samples of `load_records` that have a video or an image; they need no `conversations`.

    Raises:
        InputError: as `load_records`, or none has one.
    """
    samples = _read_samples(Path(path))
    records = (_visual_record(sample, f"{path}, record {i}") for i, sample in enumerate(samples))
    visual = tuple(record for record in records if record.has_visual)
    if not visual:
        raise InputError(f"Data file {path} names no video and no image: stage 1 learns from them.")
    return visual


def load_records(path: str | Path) -> tuple[Record, ...]:
    """Reads a JSON list of samples: `conversations`, and `video` or `image` or neither.

    Optional are `id` (a name for messages) and `scale` (stretches the time stamps). Other fields
    are ignored.

    Raises:
        InputError: no such file, not JSON, no samples, or a record that cannot be used; the
            sentence names file, record and field.
    """
    samples = _read_samples(Path(path))
    return tuple(_record(sample, f"{path}, record {i}") for i, sample in enumerate(samples))


def _read_samples(path: Path) -> list[Any]:
    if not path.is_file():
        raise InputError(f"Data file {path} does not exist: check data.path.")
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"Data file {path} is not JSON ({error}): mend it.") from error
    if not isinstance(samples, list) or not samples:
        raise InputError(f"Data file {path} holds no list of samples: give a non-empty JSON list.")
    return samples


def resolve_inside(root: str | Path, name: str) -> Path:
    """The file `name` under `root`, links followed.

    Raises:
        InputError: it lies outside of `root`.
    """
    root = Path(root).resolve()
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name} in {root} leads nowhere ({error}): mend the link.") from error
    if not path.is_relative_to(root):
        raise InputError(
            f"{name} leads out of its folder {root}: data files may only name files inside it, so"
            " move the file there."
        )
    return path


def _record(sample: Any, where: str) -> Record:
    visual = _visual_record(sample, where)
    where, video, image = visual.name, visual.video, visual.image
    turns = _turns(sample.get("conversations"), where)
    try:
        places = check_image_mark(drop_leading_reply(turns))
    except InputError as error:
        raise _wrong(where, "conversations", f"cannot be used. {error}") from error
    if places != bool(video or image):
        there = f"has {IMAGE_MARK} but no video or image" if places else f"lacks {IMAGE_MARK}"
        raise _wrong(where, "conversations", f"{there}: {IMAGE_MARK} marks the visual's place")
    return visual._replace(turns=turns)


def _visual_record(sample: Any, where: str) -> Record:
    """The record without its text."""
    if not isinstance(sample, dict):
        raise _wrong(where, "", f"is {_shown(sample)}: expected an object")
    where = f"{where} (id {sample['id']!r})" if "id" in sample else where
    video, image = (_path(sample, key, where) for key in ("video", "image"))
    if video and image:
        raise _wrong(where, "image", "stands beside field 'video': keep one of them")
    return Record(where, (), video, image, _scale(sample, where))


def _turns(turns: Any, where: str) -> tuple[Turn, ...]:
    if not isinstance(turns, list) or not turns:
        raise _wrong(where, "conversations", f"is {_shown(turns)}: expected a non-empty list")
    return tuple(_turn(turn, where, f"conversations[{i}]") for i, turn in enumerate(turns))


def _turn(turn: Any, where: str, field: str) -> Turn:
    if not isinstance(turn, dict):
        raise _wrong(where, field, f"is {_shown(turn)}: expected an object")
    role, text = turn.get("from"), turn.get("value")
    if role not in ("human", "gpt"):
        raise _wrong(where, f"{field}.from", f"is {_shown(role)}: expected 'human' or 'gpt'")
    if not isinstance(text, str):
        raise _wrong(where, f"{field}.value", f"is {_shown(text)}: expected text")
    return Turn(role, text)


def _path(sample: dict, key: str, where: str) -> str:
    if key not in sample:
        return ""
    name = sample[key]
    if not isinstance(name, str) or not name or "\0" in name:
        raise _wrong(where, key, f"is {_shown(name)}: expected one file's path")
    parts: Sequence[str] = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in parts:
        raise _wrong(where, key, f"is {_shown(name)}: expected a path inside data.{key}_root")
    return name


def _scale(sample: dict, where: str) -> float:
    scale = sample.get("scale", 1.0)
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not math.isfinite(scale) or scale <= 0:
        raise _wrong(where, "scale", f"is {_shown(scale)}: expected a number above 0")
    return float(scale)


def _wrong(where: str, field: str, what: str) -> InputError:
    named = f"field {field!r} " if field else ""
    return InputError(f"{where}: {named}{what}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
