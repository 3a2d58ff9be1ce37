"""Parses replies: letters of options, spans of time, and boxes."""

import bisect
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vxlpro_jax.evals.numerals import plain_numbers


def letter(index: int) -> str:
    """Returns the letter of an option by its zero-based index: 0 is A."""
    return chr(ord("A") + index)


def first_letter(text: str, *, letters: str, phrases: Iterable[str]) -> str | None:
    """Returns the first of `letters` in a reply, after deleting `phrases` from it one by one."""
    text = text.strip()
    for phrase in phrases:
        text = text.replace(phrase, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else None


def before_parenthesis(text: str) -> str:
    """Returns the character before the first ")"; the whole text if there is none."""
    end = text.find(")")
    return text if end < 0 else text[max(end - 1, 0) : end]


def lettered(options: Iterable[str], *, form: str) -> str:
    """Formats options with their letters, one per line, such as `A. goat` for the form `{}. {}`."""
    return "\n".join(form.format(letter(i), option) for i, option in enumerate(options))


# ---- Spans of time ------------------------------------------------------------------------------


class TimeSpan(NamedTuple):
    """A span of a video, from `start` to `end` in seconds."""

    start: float
    end: float


_CLOCK = r"(?:\d+:)?\d{1,3}:\d{2}(?:\.\d+)?"
_NUMBER = r"\d+(?:\.\d+)?|\.\d+"
_SECONDS = r"(?:seconds?|secs?|s)"
_MINUTES = r"(?:minutes?|mins?|m)"


def _time(name: str) -> str:
    """Returns a pattern for a time and its unit, with the groups `name` and `name_unit`."""
    unit = rf"\s*(?P<{name}_unit>{_SECONDS}|{_MINUTES})\b"
    return rf"(?<![\w.])(?P<{name}>{_CLOCK}|{_NUMBER})(?:{unit})?(?![\w:])\.?"


_TIMES = re.compile(_time("time"))
_BETWEEN = r"[\s\"'\])}>]*(?:[-\u2013\u2014~,]|to|until|till|through|and)[\s\"'\[({<]*"
_RANGE = re.compile(_time("start") + _BETWEEN + _time("end"))
_COMPOUND = re.compile(rf"(?<![\w.])(\d+)\s*{_MINUTES}\s*(?:and\s*)?(\d+(?:\.\d+)?)\s*{_SECONDS}\b")
_STARTS = re.compile(r"\b(?:start|begin|began|from)")
_ENDS = re.compile(r"\b(?:end|finish|stop|until|till|to\b)")


def ordered_span(first: float, second: float) -> TimeSpan:
    """Returns the span between two times in seconds, in either order."""
    return TimeSpan(min(first, second), max(first, second))


def find_span(text: str) -> TimeSpan | None:
    """Returns the time span in a reply of any wording; this is no benchmark's own parser.

    It understands ranges (`3.5s to 9s`, `1:05 - 1:20`, `[3.2, 9.1]`, `1 - 2 minutes`), a separate
    start and end (`It starts at 4.5 seconds and ends at 10 seconds.`), and otherwise exactly two
    times. The first range counts; a start after the end is swapped with it.
    """
    text = _compound_as_seconds(text)
    found = _RANGE.search(text)
    return _range_span(found) if found else _span_of_two_times(text)


def find_spans(text: str) -> list[TimeSpan]:
    """Returns all ranges in a reply, or else the span that `find_span` finds; may be empty."""
    text = _compound_as_seconds(text)
    ranges = [_range_span(found) for found in _RANGE.finditer(text)]
    single = None if ranges else _span_of_two_times(text)
    return [single] if single else ranges


def _compound_as_seconds(text: str) -> str:
    """Returns lower case and plain numbers, with `2 minutes 5 seconds` as `125.0 s`."""
    text = plain_numbers(text.lower())
    return _COMPOUND.sub(lambda m: f"{60 * float(m[1]) + float(m[2])} s", text)


def _range_span(found: re.Match) -> TimeSpan:
    return ordered_span(_seconds(found, "start", "end"), _seconds(found, "end"))


def _span_of_two_times(text: str) -> TimeSpan | None:
    start = _after(_STARTS, text, 0)
    end = _after(_ENDS, text, start.end()) if start else None
    if start and end:
        return ordered_span(_seconds(start, "time"), _seconds(end, "time"))
    times = list(_TIMES.finditer(text))
    if len(times) != 2:
        return None
    return ordered_span(*(_seconds(time, "time") for time in times))


def clock_seconds(clock: str) -> float:
    """Converts a clock time, `mm:ss` or `hh:mm:ss`, or plain seconds, to seconds."""
    seconds = 0.0
    for part in clock.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _after(word: re.Pattern, text: str, position: int) -> re.Match | None:
    found = word.search(text, position)
    return _TIMES.search(text, found.end()) if found else None


def _seconds(found: re.Match, name: str, fallback: str = "") -> float:
    """Returns a time in seconds; without a unit it takes that of `fallback`: `1 - 2 minutes`."""
    unit = found[f"{name}_unit"] or (found[f"{fallback}_unit"] if fallback else None) or ""
    if unit.startswith("m") and ":" not in found[name]:
        return 60 * float(found[name])
    return clock_seconds(found[name])


# ---- Boxes --------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax


_FENCE_START = re.compile(r"```json\s*+(?<=\n)(?=([\[{]))")
_FENCE_END = re.compile(r"[\]}](?=\s*+(?<=\n)```)")
_CLOSING = {"[": "]", "{": "}"}


def read_boxes(reply: str) -> dict[str, list]:
    """Returns the box, or list of boxes, of each second, keyed as the reply writes the second.

    The reply may contain an object, a list of objects or a list of `[second, box]`, either fenced
    as JSON or as the longest bracketed text. If its brackets do not balance, only an object is
    read. Anything that is not a box of four finite numbers is left out.
    """
    text = _stretch(reply).strip().replace("'", '"')
    try:
        found = _by_second(json.loads(text))
    except (ValueError, TypeError, LookupError, RecursionError):
        found = _repaired(text)
    cleaned = {second: _cleaned(boxes) for second, boxes in found.items()}
    return {second: boxes for second, boxes in cleaned.items() if boxes}


def _stretch(reply: str) -> str:
    """Returns the text from the first bracket to the last one that may close it."""
    if fenced := _fenced(reply):
        return fenced
    ends = ((reply.find(left), reply.rfind(right)) for left, right in ("[]", "{}"))
    found = [(start, end) for start, end in ends if 0 <= start < end]
    start, end = min(found, default=(0, -1))
    return reply[start : end + 1]


def _fenced(reply: str) -> str:
    """Returns the first list or object fenced as JSON, up to the first fence that may close it.

    One pattern for both fences would search for the second from each of many first fences.
    """
    ends: dict[str, list[int]] = {"]": [], "}": []}
    for end in _FENCE_END.finditer(reply):
        ends[end[0]].append(end.start())
    for start in _FENCE_START.finditer(reply):
        closing = ends[_CLOSING[start[1]]]
        place = bisect.bisect_right(closing, start.end())
        if place < len(closing):
            return reply[start.end() : closing[place] + 1]
    return ""


def _cleaned(boxes: Any) -> list:
    """Returns a box, or those members of a list that are boxes.

    The result is empty if a side is not a number, as in the authors' script.
    """
    if not isinstance(boxes, list) or not boxes:
        return []
    is_single = isinstance(boxes[0], int | float)
    several = [boxes] if is_single else boxes
    fours = [box for box in several if isinstance(box, list) and len(box) == 4]
    try:
        finite = [box for box in fours if sum(map(math.isfinite, box)) == 4]
    except (TypeError, OverflowError):
        return []
    return finite[0] if is_single and finite else finite


def _by_second(boxes: Any) -> Mapping[str, Any]:
    if isinstance(boxes, list):
        if all(isinstance(item, dict) for item in boxes):
            return {name: box for item in boxes for name, box in item.items()}
        return {str(item[0]): item[1] for item in boxes}
    return boxes if isinstance(boxes, dict) else {}


def _repaired(text: str) -> Mapping[str, Any]:
    for left, right in ("[]", "{}"):
        missing = text.count(left) - text.count(right)
        text = left * -missing + text + right * missing
    try:
        boxes = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return boxes if isinstance(boxes, Mapping) else {}
