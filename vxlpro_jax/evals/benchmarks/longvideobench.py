"""LongVideoBench: questions with three to five options, by duration and question category."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vxlpro_jax.evals.annotations import AnnotationRow, read_rows
from vxlpro_jax.evals.benchmark import (
    PENDING,
    Benchmark,
    Budget,
    Profile,
    Prompt,
    Record,
    Score,
    ScoredRecord,
)
from vxlpro_jax.evals.metrics import percent, pooled_accuracies
from vxlpro_jax.evals.parsing import first_letter, letter, lettered

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
class LongvideobenchQuestion(Record):
    """A question; `gold` is None where the answer is withheld, as in the test split."""

    duration_group: int
    category: str
    question: str
    options: tuple[str, ...]
    gold: str | None

    @property
    def groups(self) -> tuple[str, ...]:
        """The video's duration group, in seconds, and the question's category."""
        return (f"duration/{self.duration_group}", f"category/{self.category}")


def _read(path: Path) -> list[LongvideobenchQuestion]:
    """Reads `lvb_val.json`, or rows with the fields `option0` to `option4`.

    Raises:
        InputError: the file or a record cannot be used.
    """
    return [_question(row) for row in read_rows(path)]


def _prompt(question: LongvideobenchQuestion, profile: Profile) -> Prompt:
    """Returns lmms-eval's prompt for videos, including its final newline."""
    del profile
    options = lettered(question.options, form="{}. {}")
    ending = "Answer with the option's letter from the given choices directly.\n"
    return Prompt(f"{question.question}\n{options}\n{ending}")


def _score(question: LongvideobenchQuestion, answer: str, profile: Profile) -> Score:
    """Takes the first letter A to E after deleting some phrases, even if no option has it.

    If the answer has no letter, lmms-eval guesses at random. Here such an answer is wrong, and the
    measure `expected` is the expected accuracy of a random guess.
    """
    del profile
    if question.gold is None:
        return PENDING
    parsed = first_letter(answer, letters="ABCDE", phrases=_PHRASES)
    right = parsed == question.gold
    expected = 1 / len(question.options) if parsed is None else float(right)
    return Score(parsed, right, measures={"expected": expected})


def _aggregate(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `overall`, the groups, and `overall_expected`, which credits random guesses."""
    decided = [one.score.measures["expected"] for one in scored if not one.score.is_pending]
    return {**pooled_accuracies(scored, profile), "overall_expected": percent(decided)}


def frame_indices(*, duration: float, fps: float, max_frames: int) -> list[int]:
    """Returns the indices of the frames that the authors sample from a video of `duration` s."""
    count = min(max_frames, int(duration))
    return [int(int(duration * fps) / count) * i for i in range(count)]


def _question(row: AnnotationRow) -> LongvideobenchQuestion:
    options = _options(row)
    right = -1
    if "correct_choice" in row:
        right = row.one_of("correct_choice", (-1, *range(len(options))))
    return LongvideobenchQuestion(
        id=row.id("id"),
        video=row.text("video_path"),
        duration_group=int(row.number("duration_group")),
        category=row.text("question_category"),
        question=row.text("question"),
        options=options,
        gold=None if right == -1 else letter(int(right)),
    )


def _options(row: AnnotationRow) -> tuple[str, ...]:
    if "candidates" in row:
        return row.options("candidates")
    named = [key for key in map("option{}".format, range(5)) if key in row]
    options = tuple(row.text(key) for key in named if row.fields[key] != _ABSENT)
    if not options:
        raise row.wrong("candidates", "a list of options, or fields option0 to option4")
    return options


LONGVIDEOBENCH = Benchmark(
    name="longvideobench",
    read=_read,
    prompt=_prompt,
    score=_score,
    aggregate=_aggregate,
    budget=Budget(max_frames=400, max_new_tokens=32),
)
BENCHMARKS = (LONGVIDEOBENCH,)
