"""Your own questions about videos and pictures, in a JSON list or JSON lines, of any answer type.

A record has these fields:

- `video` or `image`: path of the file, relative to `--videos` and inside it.
- `question`: text.
- `options`: list of texts, if the question is multiple choice.
- `answer`: the right option or its letter, or the right text if there are no options; or instead
- `spans`: list of `[start, end]` in seconds, if the answer is one or more spans of the video.
- `group`: name under which the accuracy is also reported (optional).
- `id`: text or integer (optional; by default the index in the file).
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from vxlpro_jax.data.sources import paths
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
from vxlpro_jax.evals.metrics import RIGHT_IOU, pooled_accuracies, recall_at_iou, temporal_set_iou
from vxlpro_jax.evals.parsing import TimeSpan, find_spans, letter, lettered
from vxlpro_jax.utils.errors import InputError

MAX_OPTIONS = 26

_CHOOSE = "Answer with the option's letter from the given choices directly."
# A letter before a punctuation mark or the end of the line, alone or after a word like "answer".
_LETTER = r"\(?([A-Z])(?:[.:),]|\s*$)"
_FIRST_LETTER = re.compile(_LETTER, re.MULTILINE)
_NAMED_LETTER = re.compile(
    rf"\b(?i:answer|option|choice)\b(?i:\s+is)?\s*:?\s*{_LETTER}", re.MULTILINE
)
_FINAL_MARKS = ".,;:!?"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnQuestion(Record):
    """A question.

    Attributes:
        question: text of the question.
        options: texts of the options; empty if the question is not multiple choice.
        answer: right text; for multiple choice the letter of the right option; "" for spans.
        spans: right spans of the video; empty for other questions.
        group: name of the group; "" for none.
    """

    question: str
    options: tuple[str, ...]
    answer: str
    spans: tuple[TimeSpan, ...]
    group: str

    @property
    def groups(self) -> tuple[str, ...]:
        """The group, if the question has one."""
        return (f"group/{self.group}",) if self.group else ()

    @property
    def is_choice(self) -> bool:
        """Whether there are options."""
        return bool(self.options)


# ---- Annotations --------------------------------------------------------------------------------


def _read(path: Path) -> list[OwnQuestion]:
    """Reads the records.

    Raises:
        InputError: the file or a field of a record cannot be used.
    """
    return [_question(row) for row in read_rows(path)]


def _question(row: AnnotationRow) -> OwnQuestion:
    if ("video" in row) == ("image" in row):
        raise row.wrong("video", "a path here or in 'image', not both")
    if ("answer" in row) == ("spans" in row):
        raise row.wrong("answer", "the right answer here or in 'spans', not both")
    is_image = "image" in row
    if is_image and "spans" in row:
        raise row.wrong("spans", "none, since a picture has no length")
    options = _options(row)
    return OwnQuestion(
        id=row.id("id"),
        video=_media(row, "image" if is_image else "video"),
        is_image=is_image,
        question=row.text("question"),
        options=options,
        answer=_answer(row, options) if "answer" in row else "",
        spans=_spans(row) if "spans" in row else (),
        group=row.text("group") if "group" in row else "",
    )


def _media(row: AnnotationRow, field: str) -> str:
    name = row.text(field)
    if paths.escapes_root(name) or "\0" in name:
        raise row.wrong(field, "a path relative to --videos and inside it")
    return name


def _options(row: AnnotationRow) -> tuple[str, ...]:
    if "options" not in row:
        return ()
    if "spans" in row:
        raise row.wrong("options", "none, since the answer is 'spans'")
    options = row.options("options")
    distinct = set(map(_normalised, options))
    if not 2 <= len(options) <= MAX_OPTIONS or len(distinct) != len(options):
        raise row.wrong("options", f"2 to {MAX_OPTIONS} that differ in more than punctuation")
    return options


def _answer(row: AnnotationRow, options: Sequence[str]) -> str:
    """Returns the right text, or the letter of the right option."""
    value = row.fields["answer"]
    text = row.text("answer") if isinstance(value, str) else f"{row.number('answer')}"
    if not options:
        if not _normalised(text):
            raise row.wrong("answer", "a text that is more than punctuation")
        return text
    letters = [letter(i) for i in range(len(options))]
    matches = {letters[i] for i, option in enumerate(options) if option == text}
    matches |= {text} & set(letters)
    if len(matches) != 1:
        raise row.wrong("answer", "one of the options or its letter, but not two different ones")
    return matches.pop()


def _spans(row: AnnotationRow) -> tuple[TimeSpan, ...]:
    spans = []
    for value in row.entries("spans"):
        single = dataclasses.replace(row, fields={"spans": value})
        try:
            start, end = single.span("spans")
        except InputError:
            start, end = 0, 0
        if not 0 <= start < end:
            raise row.wrong("spans", "a list of [start, end] in seconds, each end after its start")
        spans.append(TimeSpan(start, end))
    return tuple(spans)


# ---- Prompt and score ---------------------------------------------------------------------------


def _prompt(question: OwnQuestion, profile: Profile) -> Prompt:
    """Returns the question unchanged, then options, one per line, and the request for a letter."""
    del profile
    if not question.options:
        return Prompt(question.question)
    options = lettered(question.options, form="{}. {}")
    return Prompt(f"{question.question}\n{options}\n{_CHOOSE}")


def _score(question: OwnQuestion, answer: str, profile: Profile) -> Score:
    """Scores an option's letter, an exact text, or the IoU of spans, which is right from 0.5."""
    del profile
    if question.spans:
        return _score_spans(question, answer)
    if question.options:
        chosen = find_option(answer, options=question.options)
        return Score(chosen, chosen == question.answer)
    return Score(_normalised(answer) or None, _normalised(answer) == _normalised(question.answer))


def _score_spans(question: OwnQuestion, answer: str) -> Score:
    found = [span for span in find_spans(answer) if span.end < float("inf")]
    overlap = temporal_set_iou(question.spans, found)
    parsed = [list(span) for span in found] or None
    return Score(parsed, overlap >= RIGHT_IOU, measures={"iou": overlap})


def find_option(reply: str, *, options: Sequence[str]) -> str | None:
    """Returns the letter of the option that a reply names by letter or text.

    A letter at the beginning counts (`B`, `(B)`, `B. a horse`), or else the whole text of an
    option, or else a letter after "answer", "option" or "choice".
    """
    letters = [letter(i) for i in range(len(options))]
    found = _FIRST_LETTER.match(reply.strip())
    if found and found[1] in letters:
        return found[1]
    texts = {_normalised(option): name for option, name in zip(options, letters, strict=True)}
    if (text := _normalised(reply)) in texts:
        return texts[text]
    named = [name for name in _NAMED_LETTER.findall(reply) if name in letters]
    return named[-1] if named else None


def _normalised(text: str) -> str:
    """Returns the text in lower case, without surrounding whitespace and final punctuation."""
    return text.strip().rstrip(_FINAL_MARKS).strip().casefold()


def _aggregate(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `overall` and each `group/`; with spans also `mIoU` and `R1@0.3` to `R1@0.7`."""
    spans = [one for one in scored if one.record.spans]
    ious = recall_at_iou(spans, measure="iou", mean_name="mIoU") if spans else {}
    return {**pooled_accuracies(scored, profile), **ious}


QUESTIONS = Benchmark(
    name="questions",
    read=_read,
    prompt=_prompt,
    score=_score,
    aggregate=_aggregate,
    budget=Budget(max_frames=None, max_new_tokens=16, free_text=64),
    paths="exact",
)
BENCHMARKS = (QUESTIONS,)
