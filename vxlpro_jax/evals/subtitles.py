"""Subtitles that are shown with sampled frames."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vxlpro_jax.evals.annotations import read_text
from vxlpro_jax.evals.benchmark import Profile
from vxlpro_jax.utils.errors import InputError

_TAGGED = re.compile(r'<font color="white" size=".72c">(.*?)</font>')
NO_SUBTITLES = "No subtitles available"


class Cue(NamedTuple):
    """Attributes: `start` and `end` in seconds; `text`, its lines joined by spaces."""

    start: float
    end: float
    text: str


def read_srt(path: Path) -> list[Cue]:
    """The cues of an SRT file; of two with the same times the later text is kept.

    Raises:
        InputError: the file cannot be read, or a cue's times are malformed.
    """
    texts = {}
    for block in read_text(path, "Subtitles").split("\n\n"):
        lines = block.split("\n")
        if not block.strip() or len(lines) < 3:
            continue
        try:
            start, end = map(_seconds, lines[1].split(" --> "))
        except ValueError as error:
            raise InputError(f"Subtitles {path} have the times {lines[1]!r}: mend them.") from error
        texts[start, end] = " ".join(lines[2:])
    return [Cue(start, end, text) for (start, end), text in texts.items()]


def subtitles_at(
    cues: Sequence[Cue], *, frames: Sequence[int], fps: float, profile: Profile
) -> str:
    """The text of the cues that cover a sampled frame, a line each.

    A cue covers frames int(start * fps) to int(end * fps) - 1. legacy2025, which is lmms-eval's
    code, shows only text in its font tag, and the cues in the order of a set of their places.
    """
    spans = [(int(cue.start * fps), int(cue.end * fps)) for cue in cues]
    covered = [
        i for frame in frames for i, (start, end) in enumerate(spans) if start <= frame < end
    ]
    if profile == "official":
        return "\n".join(re.sub(r"<[^>]*>", "", cues[i].text).strip() for i in sorted(set(covered)))
    tagged = (_TAGGED.search(cues[i].text) for i in list(set(covered)))
    return "\n".join(found[1] for found in tagged if found)


def _seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    seconds, milliseconds = rest.split(",")
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(milliseconds) / 1000
