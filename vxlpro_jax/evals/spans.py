"""Spans of time in replies, and how well they overlap with the right ones."""

import re
from typing import NamedTuple


class Span(NamedTuple):
    """Attributes: `start` and `end` in seconds."""

    start: float
    end: float


THRESHOLDS = (0.3, 0.5, 0.7)

_CLOCK = r"(?:\d+:)?\d{1,3}:\d{2}(?:\.\d+)?"
_NUMBER = r"\d+(?:\.\d+)?|\.\d+"
_SECONDS = r"(?:seconds?|secs?|s)"
_MINUTES = r"(?:minutes?|mins?|m)"


def _time(name: str) -> str:
    """A pattern of a time and its unit, `name` and `name_unit`."""
    unit = rf"\s*(?P<{name}_unit>{_SECONDS}|{_MINUTES})\b"
    return rf"(?<![\w.])(?P<{name}>{_CLOCK}|{_NUMBER})(?:{unit})?(?![\w:])\.?"


_TIMES = re.compile(_time("time"))
_BETWEEN = r"[\s\"'\])}>]*(?:[-\u2013\u2014~,]|to|until|till|through|and)[\s\"'\[({<]*"
_RANGE = re.compile(_time("start") + _BETWEEN + _time("end"))
_COMPOUND = re.compile(rf"(?<![\w.])(\d+)\s*{_MINUTES}\s*(?:and\s*)?(\d+(?:\.\d+)?)\s*{_SECONDS}\b")
_STARTS = re.compile(r"\b(?:start|begin|began|from)")
_ENDS = re.compile(r"\b(?:end|finish|stop|until|till|to\b)")


def ordered(first: float, second: float) -> Span:
    """The span between two times."""
    return Span(min(first, second), max(first, second))


def iou(truth: tuple[float, float], span: tuple[float, float] | None) -> float:
    """Overlap of two spans over their hull, 0 to 1; 0 without a span or if the hull is empty."""
    if span is None:
        return 0.0
    hull = max(truth[1], span[1]) - min(truth[0], span[0])
    overlap = max(0.0, min(truth[1], span[1]) - max(truth[0], span[0]))
    return overlap / hull if hull > 0 else 0.0


def find_span(text: str) -> Span | None:
    """The span that a reply means, whatever its wording: ours, not a benchmark's parser.

    Understood are ranges (`3.5s to 9s`, `1:05 - 1:20`, `[3.2, 9.1]`, `1 - 2 minutes`), a start and
    an end apart (`It starts at 4.5 seconds and ends at 10 seconds.`), and else exactly two times.
    The first range counts; times that are the wrong way round are exchanged.
    """
    text = _COMPOUND.sub(lambda m: f"{60 * float(m[1]) + float(m[2])} s", text.lower())
    found = _RANGE.search(text)
    if found:
        return ordered(_seconds(found, "start", "end"), _seconds(found, "end"))
    start = _after(_STARTS, text, 0)
    end = _after(_ENDS, text, start.end()) if start else None
    if start and end:
        return ordered(_seconds(start, "time"), _seconds(end, "time"))
    times = list(_TIMES.finditer(text))
    if len(times) != 2:
        return None
    return ordered(*(_seconds(time, "time") for time in times))


def clock_seconds(clock: str) -> float:
    """Seconds of `mm:ss` or `hh:mm:ss`, of plain seconds too."""
    seconds = 0.0
    for part in clock.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _after(word: re.Pattern, text: str, position: int) -> re.Match | None:
    found = word.search(text, position)
    return _TIMES.search(text, found.end()) if found else None


def _seconds(found: re.Match, name: str, fallback: str = "") -> float:
    """A time in seconds; one without a unit has that of `fallback`, as in `1 - 2 minutes`."""
    unit = found[f"{name}_unit"] or (found[f"{fallback}_unit"] if fallback else None) or ""
    if unit.startswith("m") and ":" not in found[name]:
        return 60 * float(found[name])
    return clock_seconds(found[name])
