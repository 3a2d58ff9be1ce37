"""Charades-STA: finds when the event described by a sentence happens in a clip."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vxlpro_jax.evals import metrics
from vxlpro_jax.evals.annotations import AnnotationRow, read_rows
from vxlpro_jax.evals.benchmark import (
    Benchmark,
    Budget,
    Profile,
    Prompt,
    Record,
    Score,
    ScoredRecord,
)
from vxlpro_jax.evals.numerals import plain_numbers
from vxlpro_jax.evals.parsing import TimeSpan, clock_seconds, ordered_span
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.files import read_text

_PROMPT = (
    "Please find the visual event described by a sentence in the video, determining its starting"
    " and ending times. The format should be: 'The event happens in the start time - end time'. For"
    " example, The event 'person turn a light on' happens in the 24.3 - 30.4 seonds. Now I will"
    " give you the textual sentence: {}. Please return its start time and end time."
)
_ECHO = "a specific example is : 20.8 - 30.0 seconds"
_KEYWORDS = ("start", "end", "happen")

_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?"
_CLOCKS = re.compile(rf"\b({_CLOCK})\b")
_CLOCK_RANGE = re.compile(rf"\b({_CLOCK})\s*[\u2013-]\s*({_CLOCK})\b")
_NUMBER = re.compile(r"\b(\d+(?:\.\d+)?)\b")
# lmms-eval's patterns may start inside a number and backtrack over digits. This never finds more,
# but takes hours on a reply that repeats one digit.
_FIRST = r"(?<!\d)(\d++(?:\.\d++)?+)"
_NUMBER_RANGE = re.compile(rf"{_FIRST}\s*+[\u2013-]\s*(\d+(?:\.\d+)?)")
_UNIT_RANGE = re.compile(rf"{_FIRST}\s*+(?:s\s*+)?[\u2013-]\s*(\d+(?:\.\d+)?)")

_LEGACY_NUMBER = re.compile(r"\b(\d+\.\d+\b|\b\d+)\b")
_LEGACY_RANGE = re.compile(r"(?<!\d)(\d++\.*+\d*+)\s*+-\s*(\d+\.*\d*)")

_LINE = re.compile(r"(\S+) (\S+) (\S+)##(.+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharadesQuery(Record):
    """A sentence about a clip.

    Attributes:
        caption: text of the sentence.
        span: time span in which it is true.
        key: text that is equal for records that lmms-eval counts as one.
    """

    caption: str
    span: TimeSpan
    key: str


def _read(path: Path) -> list[CharadesQuery]:
    """Reads records with `video`, `caption` and `timestamp`, or the original `.txt` lines.

    Raises:
        InputError: the file or a record cannot be used.
    """
    rows = _text_rows(path) if path.suffix == ".txt" else read_rows(path)
    return [_query(row) for row in rows]


def _prompt(query: CharadesQuery, profile: Profile) -> Prompt:
    """Returns lmms-eval's prompt, including its spelling mistake."""
    del profile
    return Prompt(_PROMPT.format(query.caption))


def _score(query: CharadesQuery, answer: str, profile: Profile) -> Score:
    """Computes the IoU of the first span that lmms-eval (of 2026 or of early 2025) finds."""
    parse = parse_official if profile == "official" else parse_legacy
    return metrics.score_span(query.span, parse(answer), answer)


def _aggregate(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `mIoU` and `R1@` over all queries; for exact duplicates only the last counts."""
    del profile
    merged = metrics.last_of_each(scored, key=lambda one: one.record.key)
    return metrics.span_metrics(merged, mean_name="mIoU")


def parse_official(answer: str) -> TimeSpan | None:
    """Returns the span that lmms-eval of 2026 would find.

    It tries one pattern after another on the sentences with a keyword, or on all sentences if none
    has a keyword.
    """
    sentences = _sentences(_plain(answer))
    sentences = _with_keyword(sentences) or sentences
    return (
        _first_range(_CLOCK_RANGE, sentences)
        or _first_range(_NUMBER_RANGE, sentences)
        or _first_pair([clock for text in sentences for clock in _CLOCKS.findall(text)])
        or _first_pair([number for text in sentences for number in _NUMBER.findall(text)[:1]])
        or _first_range(_UNIT_RANGE, sentences)
    )


def parse_legacy(answer: str) -> TimeSpan | None:
    """Returns the span that lmms-eval of early 2025 would find.

    This is a number range anywhere, or else the first numbers of two sentences with a keyword. A
    number with stray dots (`9..`), on which lmms-eval stops with an error, counts as no span.
    """
    text = _plain(answer)
    try:
        found = _first_range(_LEGACY_RANGE, [text])
    except ValueError:
        return None
    sentences = _with_keyword(_sentences(text))
    return found or _first_pair(
        [number for sentence in sentences for number in _LEGACY_NUMBER.findall(sentence)[:1]]
    )


def _plain(answer: str) -> str:
    """Rewrites numbers. Unlike here, lmms-eval truncates numbers before non-ASCII units."""
    return plain_numbers(answer.lower()).replace(_ECHO, "").replace("to", "-")


def _sentences(text: str) -> list[str]:
    return re.split(r"[!?\n]", text)


def _with_keyword(sentences: Sequence[str]) -> list[str]:
    return [text for text in sentences if any(word in text for word in _KEYWORDS)]


def _first_range(pattern: re.Pattern, sentences: Sequence[str]) -> TimeSpan | None:
    for text in sentences:
        found = pattern.search(text)
        if found:
            return ordered_span(*map(clock_seconds, found.groups()))
    return None


def _first_pair(times: Sequence[str]) -> TimeSpan | None:
    return ordered_span(*map(clock_seconds, times[:2])) if len(times) > 1 else None


def _text_rows(path: Path) -> list[AnnotationRow]:
    rows = []
    for number, line in enumerate(read_text(path, what="Annotation file").split("\n"), start=1):
        if not line.strip():
            continue
        fields = _line_fields(line.strip())
        if fields is None:
            raise InputError(
                f"{path}, line {number} is {line!r}: expected 'VIDEO start end##sentence.'."
            )
        rows.append(AnnotationRow(f"{path}, line {number}", len(rows), fields))
    if not rows:
        raise InputError(f"Annotations {path} have no lines: give the published file.")
    return rows


def _line_fields(line: str) -> dict[str, Any] | None:
    """Returns the fields of a line of text; None if it is malformed."""
    found = _LINE.fullmatch(line)
    if not found:
        return None
    try:
        times = [float(found[2]), float(found[3])]
    except ValueError:
        return None
    return {"video": f"{found[1]}.mp4", "caption": found[4], "timestamp": times}


def _query(row: AnnotationRow) -> CharadesQuery:
    video, caption, span = row.text("video"), row.text("caption"), row.span("timestamp")
    if span[1] < span[0]:
        raise row.wrong("timestamp", "a start and an end not before it")
    key = f"{video}>>>{caption}>>>{list(span)}"
    return CharadesQuery(id=row.id(), video=video, caption=caption, span=TimeSpan(*span), key=key)


CHARADES_STA = Benchmark(
    name="charades_sta",
    read=_read,
    prompt=_prompt,
    score=_score,
    aggregate=_aggregate,
    budget=Budget(max_frames=128, max_new_tokens=50),
    true_span=lambda query: query.span,
)
BENCHMARKS = (CHARADES_STA,)
