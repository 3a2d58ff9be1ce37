"""MLVU, Dev and Test: 7 and 9 kinds of multiple-choice tasks, and two tasks for a judge model.

Records have either the authors' form (`video`, `question_type`, options in `candidates`, the
answer's text) or lmms-eval's (`video_name`, `task_type`, options inside `question`, the answer's
letter).
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vxlpro_jax.evals.annotations import AnnotationRow, files_of, read_rows
from vxlpro_jax.evals.benchmark import (
    PENDING,
    Benchmark,
    Budget,
    JudgedRecord,
    JudgeRequest,
    Profile,
    Prompt,
    Published,
    Record,
    Rubric,
    Score,
    ScoredRecord,
)
from vxlpro_jax.evals.metrics import accuracy, group_accuracies, mean
from vxlpro_jax.evals.parsing import before_parenthesis, letter, lettered

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

# The authors' script replaces an answer that is not among the candidates by this letter.
_NO_LETTER = "@"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlvuQuestion(Record):
    """A question.

    Attributes:
        task: kind of task, such as `plotQA`.
        question: text without options.
        options: texts of the options; empty in generation tasks.
        gold: letter of the right option; None if it is unpublished.
        reference: right text, for a judge model; "" if it is unpublished.
        scoring_points: criteria for a right text, for a judge model; "" if they are unpublished.
    """

    task: str
    question: str
    options: tuple[str, ...]
    gold: str | None
    reference: str = ""
    scoring_points: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """The kind of task."""
        return (f"task/{self.task}",)

    @property
    def is_choice(self) -> bool:
        """Whether the task is multiple choice, and so needs no judge model."""
        return self.task not in GENERATION_TASKS


def _read_dev(path: Path) -> list[MlvuQuestion]:
    """Reads records of either form, from a file or from the authors' folder of JSON files.

    Raises:
        InputError: a file or a record cannot be used.
    """
    rows = _rows(path)
    questions = [_question(row) for row in rows]
    for row, question in zip(rows, questions, strict=True):
        if question.is_choice and question.gold is None:
            raise row.wrong("answer", "the right candidate")
    return questions


def _read_test(path: Path) -> list[MlvuQuestion]:
    """Reads the same forms as `_read_dev`; answers may be missing, as they are published apart.

    Raises:
        InputError: a file or a record cannot be used.
    """
    return [_question(row) for row in _rows(path)]


def _prompt(question: MlvuQuestion, profile: Profile) -> Prompt:
    """Returns the authors' prompt, or lmms-eval's of early 2025, all of it in the user's turn."""
    if not question.is_choice:
        return Prompt(question.question, system=_ANSWER)
    options = lettered(question.options, form="({}) {}")
    if profile == "official":
        asked = f"Question: {question.question}\nOptions:\n{options}".rstrip()
        text = f"{asked}\nOnly give the best option."
        return Prompt(text, system=_CHOOSE, prefill="Best Option: (")
    asked = f"{question.question}\n{options}"
    return Prompt(f"\n{asked}\nOnly give the best option.\n\nBest option: (")


def _score_dev(question: MlvuQuestion, answer: str, profile: Profile) -> Score:
    """Takes the character before the first ")", or else the whole reply.

    `legacy2025` strips whitespace from the reply first.
    """
    return _score_choice(question, before_parenthesis(_stripped(answer, profile)))


def _score_test(question: MlvuQuestion, answer: str, profile: Profile) -> Score:
    """Takes the stripped text before the first ")"; `legacy2025` scores as in Dev."""
    if profile == "official":
        return _score_choice(question, answer.split(")")[0].strip())
    return _score_dev(question, answer, profile)


def _aggregate(
    scored: Sequence[ScoredRecord], profile: Profile, *, tasks: Sequence[str]
) -> dict[str, float]:
    """Computes `macro` (M-Avg, the mean over kinds of task), `micro` and each `task/`.

    The authors' script takes the mean over the kinds that occur; lmms-eval takes it over all kinds,
    so that a kind without questions counts as 0.
    """
    chosen = [one for one in scored if one.record.is_choice]
    groups = group_accuracies(chosen)
    macro = mean(groups.values())
    if profile == "legacy2025":
        named = {*groups, *(f"task/{task}" for task in tasks)}
        macro = sum(groups.values()) / len(named)
    return {"macro": macro, "micro": accuracy(chosen), **groups}


def _stripped(answer: str, profile: Profile) -> str:
    return answer if profile == "official" else answer.strip()


def _score_choice(question: MlvuQuestion, parsed: str) -> Score:
    if not question.is_choice or question.gold is None:
        return PENDING
    right = parsed == question.gold and question.gold != _NO_LETTER
    return Score(parsed or None, right)


def _rows(path: Path) -> list[AnnotationRow]:
    """Returns the rows of a file, or of all files of a folder, numbered consecutively."""
    rows = [row for file in files_of(path) for row in read_rows(file)]
    return [dataclasses.replace(row, index=place) for place, row in enumerate(rows)]


def _question(row: AnnotationRow) -> MlvuQuestion:
    return _repacked(row) if "task_type" in row else _authors(row)


def _authors(row: AnnotationRow) -> MlvuQuestion:
    task = row.text("question_type")
    task = {"findNeedle": "needle"}.get(task, task)
    is_choice = task not in GENERATION_TASKS
    return MlvuQuestion(
        id=row.id(),
        video=row.text("video"),
        task=task,
        question=row.text("question"),
        options=row.options("candidates") if is_choice else (),
        gold=_gold(row) if is_choice and "answer" in row else None,
        reference=_judge_text(row, "answer", is_choice=is_choice),
        scoring_points=_judge_text(row, "scoring_points", is_choice=is_choice),
    )


def _gold(row: AnnotationRow) -> str:
    """Returns the letter of the last candidate equal to the answer; or the answer if a letter."""
    answer, candidates = row.fields["answer"], row.entries("candidates")
    places = [i for i, candidate in enumerate(candidates) if candidate == answer]
    if places:
        return letter(places[-1])
    letters = [letter(i) for i in range(len(candidates))]
    return answer if answer in letters else _NO_LETTER


def _repacked(row: AnnotationRow) -> MlvuQuestion:
    task, text = row.text("task_type"), row.text("question")
    is_choice = task not in GENERATION_TASKS
    name = row.text("video_name")
    question, mark, _ = text.partition("\n(A) ")
    options = _options_of(text[len(question) :]) if mark else ()
    if is_choice and not options:
        options = row.options("candidates")
    return MlvuQuestion(
        id=row.id(),
        video=name if PurePosixPath(name).suffix else f"{name}.mp4",
        task=task,
        question=question,
        options=options,
        gold=row.text("answer") if is_choice else None,
        reference=_judge_text(row, "answer", is_choice=is_choice),
        scoring_points=_judge_text(row, "scoring_points", is_choice=is_choice),
    )


def _judge_text(row: AnnotationRow, field: str, *, is_choice: bool) -> str:
    """Returns a field for a judge model; a list is formatted like a Python list."""
    return str(row.fields[field]) if field in row and not is_choice else ""


def _options_of(text: str) -> tuple[str, ...]:
    """Parses options from text that starts with a newline and has one per line: `(A) goat`."""
    options = []
    while text:
        text = text.removeprefix(f"\n({letter(len(options))}) ")
        option, mark, rest = text.partition(f"\n({letter(len(options) + 1)}) ")
        options.append(option)
        text = mark + rest
    return tuple(options)


# ---- Judge --------------------------------------------------------------------------------------
#
# The criteria and the scales are the authors', but in our own words, because their texts may not be
# copied.

_AS_JSON = 'Give a reason for each score, and end with a JSON object: {{"{}": x, "{}": y}}.'
_SUB_SCENE_SYSTEM = (
    "You rate an answer about a scene of a video from 1 to 5 in two respects. Accuracy: compare it"
    " with each of the scoring points (1: it misses the point, 3: it mentions it, but not quite"
    " rightly, 5: it has it right) and take the mean. Relevance: whether it speaks of what was"
    " asked, right or wrong (1: of something else, 2: mostly of something else, 3: of it, but"
    " unsure, 4: mostly of it and sure, 5: of nothing else and certain). "
    + _AS_JSON.format("score_accuracy", "score_relevance")
)
_SUB_SCENE = "Question: {question}\nScoring points: {points}\nAnswer: {answer}"
_SUMMARY_SYSTEM = (
    "You compare a summary of a video with a reference and rate it by whole numbers from 1 to 5 in"
    " two respects. Completeness: how many of the key points it has (1: hardly any, 2: some,"
    " 3: most, 4: nearly all, 5: all). Reliability: how free it is of errors and contradictions,"
    " and how clear (1: many errors, 2: several, 3: few, 4: negligible ones, 5: none); details that"
    " the reference lacks count only if they contradict it. "
    + _AS_JSON.format("score_completeness", "score_reliability")
)
_SUMMARY = "Reference: {reference}\nSummary: {answer}"
# The two scores that a judge gives, for each metric.
_SCORE_KEYS = {
    "VS": ("score_completeness", "score_reliability"),
    "SSC": ("score_accuracy", "score_relevance"),
}


def _judge_request(one: ScoredRecord) -> JudgeRequest | None:
    record, settings = one.record, {"temperature": 0}
    question = record.question.replace("\n", "")
    if record.task == "summary" and record.reference:
        text = _SUMMARY.format(reference=record.reference, answer=one.answer)
        return JudgeRequest(_SUMMARY_SYSTEM, text, settings)
    if not record.is_choice and record.scoring_points:
        text = _SUB_SCENE.format(question=question, points=record.scoring_points, answer=one.answer)
        return JudgeRequest(_SUB_SCENE_SYSTEM, text, settings)
    return None


def _judged_metric(one: ScoredRecord) -> str:
    return "VS" if one.record.task == "summary" else "SSC"


def _read_judge_reply(one: ScoredRecord, reply: str | None) -> dict[str, float]:
    """Returns the sum of two scores; 0 if one is missing, as in the authors' script."""
    keys = _SCORE_KEYS[_judged_metric(one)]
    patterns = [rf"{key}['\"]?\s*:\s*(\d+(?:\.\d+)?)" for key in keys]
    scores = [float(found[1]) for found in (re.search(p, reply or "") for p in patterns) if found]
    return {"score": sum(scores) if len(scores) == len(keys) else 0.0}


def _aggregate_judged(judged: Sequence[JudgedRecord]) -> dict[str, float]:
    """Computes `SSC` and `VS`, from 2 to 10, and their mean `G-Avg` if both were asked."""
    metrics = {}
    for name in _SCORE_KEYS:
        scores = [each.measures["score"] for each in judged if _judged_metric(each.scored) == name]
        if scores:
            metrics[f"judged/{name}"] = mean(scores)
    if len(metrics) == len(_SCORE_KEYS):
        metrics["judged/G-Avg"] = mean(metrics.values())
    return metrics


# ---- Dev and Test -------------------------------------------------------------------------------


def _is_choice(question: MlvuQuestion) -> bool:
    return question.is_choice


_BUDGET = Budget(max_frames=256, max_new_tokens=16, free_text=512)
_RUBRIC = Rubric(
    request=_judge_request,
    read_reply=_read_judge_reply,
    aggregate=_aggregate_judged,
    applies=lambda question: not question.is_choice,
)

# It is unknown whether the published M-Avg is a mean over kinds of task or over questions.
DEV = Benchmark(
    name="mlvu_dev",
    read=_read_dev,
    prompt=_prompt,
    score=_score_dev,
    aggregate=functools.partial(_aggregate, tasks=DEV_TASKS),
    budget=_BUDGET,
    rubric=_RUBRIC,
    published=Published(
        figures={"macro": 68.1, "judged/G-Avg": 5.27},
        num_questions=(2174, 2175),  # lmms-eval's repacked file, and the authors'.
        counts=_is_choice,
    ),
)
TEST = Benchmark(
    name="mlvu_test",
    read=_read_test,
    prompt=_prompt,
    score=_score_test,
    aggregate=functools.partial(_aggregate, tasks=TEST_TASKS),
    budget=_BUDGET,
    rubric=_RUBRIC,
    published=Published(
        figures={"macro": 46.9, "judged/G-Avg": 4.51}, num_questions=(502,), counts=_is_choice
    ),
)
BENCHMARKS = (DEV, TEST)
