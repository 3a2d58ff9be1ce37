"""Video-MME, with and without subtitles: four options, by duration, domain and kind of task."""

import dataclasses
from pathlib import Path

from vxlpro_jax.evals.annotations import AnnotationRow, read_rows, rows_of
from vxlpro_jax.evals.benchmark import (
    Benchmark,
    Budget,
    Profile,
    Prompt,
    Published,
    Record,
    Score,
)
from vxlpro_jax.evals.metrics import pooled_accuracies
from vxlpro_jax.evals.parsing import first_letter

_LEGACY_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    # Joined because of a missing comma upstream.
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
_PHRASES = {
    "official": (
        *_LEGACY_PHRASES,
        *("Answer:", "Option:", "The correct answer", "The correct option"),
    ),
    "legacy2025": _LEGACY_PHRASES,
}
_SELECT = (
    "Select the best answer to the following multiple-choice question based on the video{}. Respond"
    " with only the letter (A, B, C, or D) of the correct option."
)
# lmms-eval mentions subtitles even if it shows none.
_LEGACY_SELECT = _SELECT.format(" and the subtitles")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideommeQuestion(Record):
    """A question; its `options` start with their letters."""

    duration: str
    domain: str
    sub_category: str
    task: str
    question: str
    options: tuple[str, ...]
    gold: str

    @property
    def groups(self) -> tuple[str, ...]:
        """The video's duration, domain and sub-category, and the kind of task."""
        return (
            f"duration/{self.duration}",
            f"domain/{self.domain}",
            f"sub_category/{self.sub_category}",
            f"task/{self.task}",
        )

    @property
    def asked(self) -> str:
        """The question and its options, one per line."""
        return "\n".join((self.question, *self.options))


def _read(path: Path) -> list[VideommeQuestion]:
    """Reads the published rows, or the authors' results file with the `questions` of each video.

    Raises:
        InputError: the file or a record cannot be used.
    """
    rows = read_rows(path)
    if any("questions" in row for row in rows):
        nested = [asked for row in rows for asked in _with_video(row)]
        rows = rows_of(nested, path=path)
    return [_question(row) for row in rows]


def _prompt(question: VideommeQuestion, profile: Profile) -> Prompt:
    """Returns the prompt without subtitles."""
    if profile == "official":
        return Prompt(f"{_SELECT.format('')}\n{question.asked}\nThe best answer is:")
    ending = "\nAnswer with the option's letter from the given choices directly."
    return Prompt(f"{_LEGACY_SELECT}\n{question.asked}\n{ending}")


def _subtitled_prompt(question: VideommeQuestion, profile: Profile, *, subtitles: str) -> Prompt:
    """Returns the prompt with the subtitles shown during the sampled frames, one per line."""
    if profile == "official":
        listed = f"This video's subtitles are listed below:\n{subtitles}\n"
        return Prompt(listed + _prompt(question, profile).text)
    listed = f"This video's subtitles are listed below: \n{subtitles}"
    return Prompt(f"{listed}\n{_LEGACY_SELECT}\n{question.asked}\nThe best answer is:")


def _score(question: VideommeQuestion, answer: str, profile: Profile) -> Score:
    """Takes the first letter A to D after deleting some phrases.

    The authors' script leaves an answer without a letter out of the accuracy; lmms-eval counts it
    as wrong.
    """
    parsed = first_letter(answer, letters="ABCD", phrases=_PHRASES[profile])
    if parsed is None and profile == "official":
        return Score(None, None)
    return Score(parsed, parsed == question.gold)


def _with_video(row: AnnotationRow) -> list[dict]:
    asked = row.entries("questions")
    if not all(isinstance(fields, dict) for fields in asked):
        raise row.wrong("questions", "a list of questions, each with its fields")
    return [{**row.fields, **fields} for fields in asked]


def _question(row: AnnotationRow) -> VideommeQuestion:
    return VideommeQuestion(
        id=row.id(),
        video=f"{row.text('videoID' if 'videoID' in row else 'video_id')}.mp4",
        duration=row.one_of("duration", ("short", "medium", "long")),
        domain=row.text("domain"),
        sub_category=row.text("sub_category"),
        task=row.text("task_type"),
        question=row.text("question"),
        options=row.options("options"),
        gold=row.one_of("answer", tuple("ABCD")),
    )


_NUM_QUESTIONS = (2700,)
VIDEOMME = Benchmark(
    name="videomme",
    read=_read,
    prompt=_prompt,
    score=_score,
    aggregate=pooled_accuracies,
    budget=Budget(max_frames=400, max_new_tokens=16),
    published=Published(figures={"overall": 57.9}, num_questions=_NUM_QUESTIONS),
)
WITH_SUBTITLES = dataclasses.replace(
    VIDEOMME,
    name="videomme_subtitles",
    subtitled_prompt=_subtitled_prompt,
    published=Published(figures={"overall": 62.6}, num_questions=_NUM_QUESTIONS),
)
BENCHMARKS = (VIDEOMME, WITH_SUBTITLES)
