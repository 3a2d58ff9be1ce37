"""MLVU, Dev and Test: multiple choice in 7 and 9 kinds of task, and two tasks for a judge model.

Records are the authors' (`video`, `question_type`, options in `candidates`, the answer's text) or
lmms-eval's (`video_name`, `task_type`, options inside `question`, the answer's letter).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vxlpro_jax.evals.annotations import Row, files_of, read_rows
from vxlpro_jax.evals.letters import before_parenthesis, letter, lettered
from vxlpro_jax.evals.scoring import (
    PENDING,
    Benchmark,
    Profile,
    Prompt,
    Rated,
    Verdict,
    accuracy,
    group_accuracies,
    mean,
)

DEV_TASKS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
TEST_TASKS = (
    *("anomaly_reco", "count", "ego", "needleQA", "order", "plotQA", "sportsQA"),
    *("topic_reasoning", "tutorialQA"),
)
GENERATION_TASKS = ("subPlot", "sub_scene", "summary")

_WATCH = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, "
)
_CHOOSE = f"{_WATCH}select the best option that accurately addresses the question."
_ANSWER = f"{_WATCH}answer the given questions."

# What the authors' script makes of an answer that is not among the candidates.
_NO_LETTER = "@"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question.

    Attributes: `gold`, the right letter, None if it is not published; `reference` and
    `scoring_points`, what a judge model is told of a right text, "" if that is not published.
    """

    id: str | int
    video: str
    task: str
    question: str
    options: tuple[str, ...]
    gold: str | None
    reference: str = ""
    scoring_points: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """Its kind of task."""
        return (f"task/{self.task}",)

    @property
    def is_choice(self) -> bool:
        """Whether no judge model is needed."""
        return self.task not in GENERATION_TASKS


def read_dev(path: Path) -> list[Question]:
    """Reads either form of record, of a file or of the authors' folder of JSON files.

    Raises:
        InputError: a file or a record cannot be used.
    """
    rows = _rows(path)
    questions = [_question(row) for row in rows]
    for row, question in zip(rows, questions, strict=True):
        if question.is_choice and question.gold is None:
            raise row.wrong("answer", "the right candidate")
    return questions


def read_test(path: Path) -> list[Question]:
    """As `read_dev`, but the authors' records may lack the answer, which they publish apart.

    Raises:
        InputError: a file or a record cannot be used.
    """
    return [_question(row) for row in _rows(path)]


def prompt(question: Question, profile: Profile) -> Prompt:
    """The authors' prompt, or lmms-eval's of early 2025 with everything in the user's turn."""
    if not question.is_choice:
        return Prompt(question.question, system=_ANSWER)
    options = lettered(question.options, form="({}) {}")
    if profile == "official":
        asked = f"Question: {question.question}\nOptions:\n{options}".rstrip()
        text = f"{asked}\nOnly give the best option."
        return Prompt(text, system=_CHOOSE, prefill="Best Option: (")
    asked = f"{question.question}\n{options}"
    return Prompt(f"\n{asked}\nOnly give the best option.\n\nBest option: (")


def rate_dev(question: Question, answer: str, profile: Profile) -> Verdict:
    """The character before the first ")", else the whole reply; legacy2025 strips it first."""
    return _verdict(question, before_parenthesis(_stripped(answer, profile)))


def rate_test(question: Question, answer: str, profile: Profile) -> Verdict:
    """The stripped text before the first ")"; legacy2025 as in Dev."""
    if profile == "official":
        return _verdict(question, answer.split(")")[0].strip())
    return rate_dev(question, answer, profile)


def summarise(
    rated: Sequence[Rated], profile: Profile, *, tasks: Sequence[str]
) -> dict[str, float]:
    """`macro` (M-Avg, the mean over kinds of task), `micro` and each `task/`.

    The authors' script takes the mean over the kinds that occur, lmms-eval over all: there one
    without questions counts 0.
    """
    chosen = [one for one in rated if one.record.is_choice]
    groups = group_accuracies(chosen)
    macro = mean(groups.values())
    if profile == "legacy2025":
        named = {*groups, *(f"task/{task}" for task in tasks)}
        macro = sum(groups.values()) / len(named)
    return {"macro": macro, "micro": accuracy(chosen), **groups}


def _stripped(answer: str, profile: Profile) -> str:
    return answer if profile == "official" else answer.strip()


def _verdict(question: Question, parsed: str) -> Verdict:
    if not question.is_choice or question.gold is None:
        return PENDING
    right = parsed == question.gold and question.gold != _NO_LETTER
    return Verdict(parsed or None, right)


def _rows(path: Path) -> list[Row]:
    """Rows of a file, or of a folder's files as if put together."""
    rows = [row for file in files_of(path) for row in read_rows(file)]
    return [dataclasses.replace(row, index=place) for place, row in enumerate(rows)]


def _question(row: Row) -> Question:
    return _repacked(row) if "task_type" in row else _authors(row)


def _authors(row: Row) -> Question:
    task = row.text("question_type")
    task = {"findNeedle": "needle"}.get(task, task)
    is_choice = task not in GENERATION_TASKS
    return Question(
        id=row.id(),
        video=row.text("video"),
        task=task,
        question=row.text("question"),
        options=row.options("candidates") if is_choice else (),
        gold=_gold(row) if is_choice and "answer" in row else None,
        **_told_to_a_judge(row, is_choice),
    )


def _gold(row: Row) -> str:
    """The letter of the last candidate that is the answer, or the answer if it is a letter."""
    answer, candidates = row.fields["answer"], row.entries("candidates")
    places = [i for i, candidate in enumerate(candidates) if candidate == answer]
    if places:
        return letter(places[-1])
    letters = [letter(i) for i in range(len(candidates))]
    return answer if answer in letters else _NO_LETTER


def _repacked(row: Row) -> Question:
    task, text = row.text("task_type"), row.text("question")
    is_choice = task not in GENERATION_TASKS
    name = row.text("video_name")
    question, mark, _ = text.partition("\n(A) ")
    options = _options_of(text[len(question) :]) if mark else ()
    if is_choice and not options:
        options = row.options("candidates")
    return Question(
        id=row.id(),
        video=name if PurePosixPath(name).suffix else f"{name}.mp4",
        task=task,
        question=question,
        options=options,
        gold=row.text("answer") if is_choice else None,
        **_told_to_a_judge(row, is_choice),
    )


def _told_to_a_judge(row: Row, is_choice: bool) -> dict[str, str]:
    """A list of scoring points as the authors' script shows it, with brackets and quotes."""
    if is_choice:
        return {}
    fields = {"reference": "answer", "scoring_points": "scoring_points"}
    return {name: str(row.fields[key]) for name, key in fields.items() if key in row}


def _options_of(text: str) -> tuple[str, ...]:
    """Options that stand a line each as `(A) goat`, from the newline before the first."""
    options = []
    while text:
        text = text.removeprefix(f"\n({letter(len(options))}) ")
        option, mark, rest = text.partition(f"\n({letter(len(options) + 1)}) ")
        options.append(option)
        text = mark + rest
    return tuple(options)


DEV = Benchmark(
    read=read_dev,
    prompt=prompt,
    rate=rate_dev,
    summarise=functools.partial(summarise, tasks=DEV_TASKS),
)
TEST = Benchmark(
    read=read_test,
    prompt=prompt,
    rate=rate_test,
    summarise=functools.partial(summarise, tasks=TEST_TASKS),
)
