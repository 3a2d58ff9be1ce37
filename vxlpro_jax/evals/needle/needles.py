"""Needles: a JSON list of pictures or clips, stored beside it, and questions about them.

A needle has `media` (the path of a picture or clip inside the list's folder), `question`, `answer`
and these optional fields:

- `options`: four texts, one of them the answer. Without them the question is the whole prompt,
  which for `mcq` already lists lettered options, and the answer a letter, as in the published
  lists.
- `plain`: true to ask the bare question, without letters, and to have the model reply with one of
  the options, for models that were trained to answer so.
- `frames`: number of haystack frames that it replaces; by default 1 for a picture, and for a clip
  its number of frames at the haystack's rate. A multiple of four starts at the start of a group.

Shapes: M frames of a needle, S side of a frame.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vxlpro_jax.data.sources.storage import resolve_inside
from vxlpro_jax.data.video import images, reader
from vxlpro_jax.evals.annotations import AnnotationRow, read_rows
from vxlpro_jax.utils.errors import InputError

NUM_OPTIONS = 4
_LONGEST = 10_000  # Frames of a clip.


class Needle(NamedTuple):
    """One needle; its `name` is unique in the list, and its `options` may be empty."""

    name: str
    media: Path
    question: str
    answer: str
    options: tuple[str, ...]
    is_plain: bool
    frames: int | None


def read_needles(path: Path) -> list[Needle]:
    """Returns the needles of a JSON list.

    Raises:
        InputError: it cannot be read, a field is missing or wrong, or a path leaves its folder.
    """
    return [_needle(row, root=path.parent) for row in read_rows(path)]


def _needle(row: AnnotationRow, *, root: Path) -> Needle:
    media, answer = row.text("media"), row.text("answer")
    options = row.options("options") if "options" in row else ()
    if options and (len(set(options)) != NUM_OPTIONS or len(options) != NUM_OPTIONS):
        raise row.wrong("options", f"{NUM_OPTIONS} different ones")
    if options and answer not in options:
        raise row.wrong("answer", "one of the options")
    is_plain = row.fields.get("plain", False)
    if not isinstance(is_plain, bool):
        raise row.wrong("plain", "true or false")
    if is_plain and not options:
        raise row.wrong("options", f"{NUM_OPTIONS} of them, since 'plain' is true")
    return Needle(
        f"{row.index} {media}",
        resolve_inside(root, media),
        row.text("question").removeprefix("\n"),
        answer,
        options,
        is_plain,
        _frames(row),
    )


def _frames(row: AnnotationRow) -> int | None:
    if "frames" not in row:
        return None
    frames = row.number("frames")
    if frames < 1 or frames != int(frames):
        raise row.wrong("frames", "a whole number from 1 on")
    return int(frames)


def read_frames(needle: Needle, *, size: int, fps: float) -> np.ndarray:
    """Returns the frames of a needle, uint8 [M,S,S,3], resized like frames of a video.

    Args:
        needle: picture or clip.
        size: side of a frame, S.
        fps: frame rate of the haystack, in frames per second.

    Raises:
        InputError: the picture or clip cannot be read.
    """
    if _is_still(needle.media):
        shown = images.open_picture(needle.media).resize((size, size), Image.Resampling.BICUBIC)
        return np.repeat(np.asarray(shown)[None], needle.frames or 1, axis=0)
    if needle.frames is None:
        return reader.read_video(needle.media, max_frames=_LONGEST, size=size, fps=fps).frames
    frames = reader.read_video(needle.media, max_frames=needle.frames, size=size).frames
    if len(frames) < needle.frames:
        raise InputError(
            f"Needle {needle.media} has {len(frames)} frames, fewer than the {needle.frames} that"
            " 'frames' asks for: lower it or use a longer clip."
        )
    return frames


def _is_still(path: Path) -> bool:
    """Returns whether a file is a still picture; other files are read as videos."""
    try:
        with Image.open(path) as picture:
            return not getattr(picture, "is_animated", False)
    except OSError:
        return False


def needle_digest(needle: Needle, frames: np.ndarray) -> str:
    """Returns a hash, 64 hexadecimal digits, of everything about a needle that affects replies."""
    fields = repr(needle._replace(media=needle.media.name)).encode()
    return hashlib.sha256(fields + frames.tobytes()).hexdigest()
