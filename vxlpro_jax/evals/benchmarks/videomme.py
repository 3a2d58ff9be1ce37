"""Video-MME, with and without subtitles: four options, by duration, domain and kind of task."""

import dataclasses
from pathlib import Path

from vxlpro_jax.evals.annotations import Row, read_rows, rows_of
from vxlpro_jax.evals.letters import first_letter
from vxlpro_jax.evals.scoring import Benchmark, Profile, Prompt, Verdict, pooled_accuracies

_LEGACY_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    # Fused by a missing comma upstream.
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
# lmms-eval names subtitles even where it gives none.
_LEGACY_SELECT = _SELECT.format(" and the subtitles")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question; its `options` begin with their letters."""

    id: str | int
    video: str
    duration: str
    domain: str
    sub_category: str
    task: str
    question: str
    options: tuple[str, ...]
    gold: str

    @property
    def groups(self) -> tuple[str, ...]:
        """Its video's duration, domain and sub-category, and its kind of task."""
        return (
            f"duration/{self.duration}",
            f"domain/{self.domain}",
            f"sub_category/{self.sub_category}",
            f"task/{self.task}",
        )

    @property
    def asked(self) -> str:
        """The question and its options, a line each."""
        return "\n".join((self.question, *self.options))


def read(path: Path) -> list[Question]:
    """Reads the published rows, or the authors' results file, a record a video with `questions`.

    Raises:
        InputError: the file or a record cannot be used.
    """
    rows = read_rows(path)
    if any("questions" in row for row in rows):
        nested = [asked for row in rows for asked in _with_video(row)]
        rows = rows_of(nested, path=path)
    return [_question(row) for row in rows]


def prompt(question: Question, profile: Profile) -> Prompt:
    """What is asked about the frames alone."""
    if profile == "official":
        return Prompt(f"{_SELECT.format('')}\n{question.asked}\nThe best answer is:")
    ending = "\nAnswer with the option's letter from the given choices directly."
    return Prompt(f"{_LEGACY_SELECT}\n{question.asked}\n{ending}")


def prompt_with(question: Question, profile: Profile, *, subtitles: str) -> Prompt:
    """What is asked about the frames and the subtitles shown with them, a line each."""
    if profile == "official":
        listed = f"This video's subtitles are listed below:\n{subtitles}\n"
        return Prompt(listed + prompt(question, profile).text)
    listed = f"This video's subtitles are listed below: \n{subtitles}"
    return Prompt(f"{listed}\n{_LEGACY_SELECT}\n{question.asked}\nThe best answer is:")


def rate(question: Question, answer: str, profile: Profile) -> Verdict:
    """The first of A to D after some phrases are deleted.

    Without one an answer is left out of the accuracy by the authors' script and wrong in lmms-eval.
    """
    parsed = first_letter(answer, letters="ABCD", phrases=_PHRASES[profile])
    if parsed is None and profile == "official":
        return Verdict(None, None)
    return Verdict(parsed, parsed == question.gold)


def _with_video(row: Row) -> list[dict]:
    asked = row.entries("questions")
    if not all(isinstance(fields, dict) for fields in asked):
        raise row.wrong("questions", "a list of questions, each with its fields")
    return [{**row.fields, **fields} for fields in asked]


def _question(row: Row) -> Question:
    return Question(
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


VIDEOMME = Benchmark(read=read, prompt=prompt, rate=rate, summarise=pooled_accuracies)
WITH_SUBTITLES = dataclasses.replace(VIDEOMME, prompt_with=prompt_with)
