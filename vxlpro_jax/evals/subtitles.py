"""Subtitles shown during sampled frames, from WebVTT and the dialects of SRT."""

import codecs
import html
import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vxlpro_jax.evals.benchmark import Profile
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import read_bytes

log = logging.getLogger(__name__)

NO_SUBTITLES = "No subtitles available"

_TAGGED = re.compile(r'<font color="white" size=".72c">(.*?)</font>')
_TAG = re.compile(r"<[^<>]*>")
# Instructions for SRT players, such as {\an8}, which are not spoken.
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
_CLOCK = r"(?:(\d{1,4})\s?:\s?)?(\d{1,2})\s?:\s?(\d{1,2})(?:\s?[,.]\s?(\d{1,3}))?"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?", re.ASCII)
# A line with an arrow and a clock, or with nothing but an arrow, is meant as times.
_CLOCK_START = re.compile(r"\d\s?:")
_WORD = re.compile(r"\w")
_COUNTER = re.compile(r"\s*(\d{1,9})\s*", re.ASCII)
# Byte order marks; UTF-32's begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Languages that are not written in Windows-1252 have longer stretches of non-ASCII bytes.
_NOT_LATIN = re.compile(rb"[\x80-\xff]{3}")


class Cue(NamedTuple):
    """Attributes: `start` and `end` in seconds; `text`, its lines joined by spaces."""

    start: float
    end: float
    text: str


class _Times(NamedTuple):
    """Attributes: `line`, index of a line with times; `start` and `end` in seconds."""

    line: int
    start: float
    end: float


def read_srt(path: Path) -> list[Cue]:
    """Reads the cues of an SRT or WebVTT file; of cues with equal times the last text is kept.

    A cue starts at a line with `-->` between times. Its text extends to the counter above the next
    such line, across any blank lines; in WebVTT, to the next blank line. The file is UTF-8, UTF-16
    or UTF-32, or Windows-1252 if its bytes look like that.

    Raises:
        InputError: the file or its encoding cannot be read, it has no cue, or a cue's times are
            malformed.
    """
    lines = re.split(r"\r\n|\r|\n", _decoded(read_bytes(path, what="Subtitle file"), path))
    times = list(_times(lines, path))
    if re.match(r"WEBVTT(\s|$)", lines[0]):
        texts = _webvtt_texts(lines, times)
    elif times or not any(map(str.strip, lines)):
        texts = _srt_texts(lines, times)
    else:
        raise InputError(f"Subtitles {path} have no line with '-->' between times: use SRT.")
    by_times = {(at.start, at.end): text for at, text in zip(times, texts, strict=True)}
    return [Cue(start, end, text) for (start, end), text in by_times.items()]


def subtitles_at(
    cues: Sequence[Cue], *, frames: Sequence[int], fps: float, profile: Profile
) -> str:
    """Returns the text of the cues that cover a sampled frame, one line each.

    A cue covers frames int(start * fps) to int(end * fps) - 1. `legacy2025`, which follows
    lmms-eval's code, shows only text in its font tag, with cues in the order of a Python set.
    """
    spans = [(int(cue.start * fps), int(cue.end * fps)) for cue in cues]
    covered = [
        i for frame in frames for i, (start, end) in enumerate(spans) if start <= frame < end
    ]
    if profile == "official":
        return "\n".join(_spoken(cues[i].text) for i in sorted(set(covered)))
    tagged = (_TAGGED.search(cues[i].text) for i in list(set(covered)))
    return "\n".join(found[1] for found in tagged if found)


def _spoken(text: str) -> str:
    return _OVERRIDE.sub("", _TAG.sub("", text)).strip()


def _decoded(data: bytes, path: Path) -> str:
    """Decodes the text of a file, in one of the encodings that `read_srt` lists."""
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError:
        pass
    if b"\0" not in data and not _NOT_LATIN.search(data):
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            pass
        else:
            log.warning("Subtitles %s are not UTF-8: they are read as Windows-1252.", path)
            return text
    raise InputError(f"Subtitles {path} are in an unknown encoding: save them as UTF-8.")


def _encoding(data: bytes) -> str:
    """Returns the encoding that a byte order mark or null bytes indicate, or else UTF-8."""
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return name
    for start, name in enumerate(("utf-16-be", "utf-16-le")):
        if data[start::2].count(0) > len(data) / 4:
            return name
    return "utf-8"


def _times(lines: Sequence[str], path: Path) -> Iterator[_Times]:
    """Yields the lines that start a cue."""
    for number, line in enumerate(lines):
        if "-->" not in line:
            continue
        if found := _TIMES.fullmatch(line):
            yield _Times(number, _seconds(*found.groups()[:4]), _seconds(*found.groups()[4:]))
        elif _CLOCK_START.search(line) or not _WORD.search(line):
            raise InputError(f"Subtitles {path} have invalid times {line[:60]!r}: correct them.")


def _seconds(hours: str | None, minutes: str, seconds: str, milliseconds: str | None) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return whole + int(milliseconds or 0) / 1000


def _webvtt_texts(lines: Sequence[str], times: Sequence[_Times]) -> Iterator[str]:
    """Yields the text of each cue, without WebVTT's tags and with character references resolved."""
    for at in times:
        said = itertools.takewhile(str.strip, lines[at.line + 1 :])
        yield html.unescape(_TAG.sub("", " ".join(said)))


def _srt_texts(lines: Sequence[str], times: Sequence[_Times]) -> Iterator[str]:
    """Yields the text of each cue."""
    previous = _last_number(lines[: times[0].line]) if times else None
    for at, after in zip(times, [*times[1:], None], strict=False):
        said = lines[at.line + 1 : after.line if after else None]
        number = _last_number(said)
        if number and _is_counter(said, number, previous=previous, ends_file=after is None):
            said = said[: number.line]
            previous = number
        yield " ".join(filter(str.strip, said))


class _Number(NamedTuple):
    """Attributes: `value`, and the index `line` of its line."""

    value: int
    line: int


def _last_number(lines: Sequence[str]) -> _Number | None:
    """Returns the number on the last non-blank line, if that line is a number."""
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    found = _COUNTER.fullmatch(lines[last]) if last >= 0 else None
    return _Number(int(found[1]), last) if found else None


def _is_counter(
    lines: Sequence[str], number: _Number, *, previous: _Number | None, ends_file: bool
) -> bool:
    """Returns whether the number at the end of a cue's text is the counter of the next cue.

    It is a counter if it follows the `previous` one, or stands alone directly above the times. At
    the end of the file, where no times follow, both must hold.
    """
    follows = previous is not None and number.value == previous.value + 1
    is_alone = number.line == 0 or not lines[number.line - 1].strip()
    if ends_file:
        return follows and is_alone
    return follows or (is_alone and number.line == len(lines) - 1)
