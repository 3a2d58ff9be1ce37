"""LongVideoBench: three to five options, by duration group and category of question."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vxlpro_jax.evals.annotations import Row, read_rows
from vxlpro_jax.evals.letters import first_letter, letter, lettered
from vxlpro_jax.evals.scoring import (
    PENDING,
    Benchmark,
    Profile,
    Prompt,
    Rated,
    Verdict,
    percent,
    pooled_accuracies,
)

_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
_ABSENT = "N/A"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question; `gold` is None where the answer is withheld, as in the test split."""

    id: str | int
    video: str
    duration_group: int
    category: str
    question: str
    options: tuple[str, ...]
    gold: str | None

    @property
    def groups(self) -> tuple[str, ...]:
        """Its video's duration group, in seconds, and its category."""
        return (f"duration/{self.duration_group}", f"category/{self.category}")


def read(path: Path) -> list[Question]:
    """Reads `lvb_val.json`, or the rows with `option0` to `option4`.

    Raises:
        InputError: the file or a record cannot be used.
    """
    return [_question(row) for row in read_rows(path)]


def prompt(question: Question, profile: Profile) -> Prompt:
    """lmms-eval's prompt for videos, its last newline kept."""
    del profile
    options = lettered(question.options, form="{}. {}")
    ending = "Answer with the option's letter from the given choices directly.\n"
    return Prompt(f"{question.question}\n{options}\n{ending}")


def rate(question: Question, answer: str, profile: Profile) -> Verdict:
    """The first of A to E after some phrases are deleted, even of an option that is not there.

    lmms-eval guesses at random without one; here that is wrong, and `expected` measures what the
    guess gives on average.
    """
    del profile
    if question.gold is None:
        return PENDING
    parsed = first_letter(answer, letters="ABCDE", phrases=_PHRASES)
    right = parsed == question.gold
    expected = 1 / len(question.options) if parsed is None else float(right)
    return Verdict(parsed, right, measures={"expected": expected})


def summarise(rated: Sequence[Rated], profile: Profile) -> dict[str, float]:
    """`overall`, the groups, and `overall_expected`, with guesses for what was not parsed."""
    decided = [one.verdict.measures["expected"] for one in rated if not one.verdict.is_pending]
    return {**pooled_accuracies(rated, profile), "overall_expected": percent(decided)}


def frame_indices(*, duration: float, fps: float, max_frames: int) -> list[int]:
    """The frames that the authors sample of a video of `duration` seconds."""
    count = min(max_frames, int(duration))
    return [int(int(duration * fps) / count) * i for i in range(count)]


def _question(row: Row) -> Question:
    options = _options(row)
    right = -1
    if "correct_choice" in row:
        right = row.one_of("correct_choice", (-1, *range(len(options))))
    return Question(
        id=row.id("id"),
        video=row.text("video_path"),
        duration_group=int(row.number("duration_group")),
        category=row.text("question_category"),
        question=row.text("question"),
        options=options,
        gold=None if right == -1 else letter(int(right)),
    )


def _options(row: Row) -> tuple[str, ...]:
    if "candidates" in row:
        return row.options("candidates")
    named = [key for key in map("option{}".format, range(5)) if key in row]
    options = tuple(row.text(key) for key in named if row.fields[key] != _ABSENT)
    if not options:
        raise row.wrong("candidates", "a list of options, or fields option0 to option4")
    return options


LONGVIDEOBENCH = Benchmark(read=read, prompt=prompt, rate=rate, summarise=summarise)
