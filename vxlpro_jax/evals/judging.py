"""What benchmarks ask a judge model about an answer, and what its replies come to.

Measures of one answer are by name; a metric's name begins with `judged/`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vxlpro_jax.evals import judge_prompts
from vxlpro_jax.evals.benchmarks import tempcompass
from vxlpro_jax.evals.judge import Question
from vxlpro_jax.evals.scoring import Rated, mean, percent

_RIGHT_RATING = 2


class Judged(NamedTuple):
    """A rated record, and what a judge's reply means, as numbers by name."""

    one: Rated
    measures: Mapping[str, float]


class Judging(NamedTuple):
    """How a benchmark is judged.

    Attributes:
        ask: the question about an answer; None if the judge has no say in it.
        read: measures of an answer, by the judge's reply, which is None if it had no say.
        summarise: metrics of judged answers.
    """

    ask: Callable[[Rated], Question | None]
    read: Callable[[Rated, str | None], dict[str, float]]
    summarise: Callable[[Sequence[Judged]], dict[str, float]]


def _ask_mlvu(one: Rated) -> Question | None:
    record, settings = one.record, {"temperature": 0}
    question = record.question.replace("\n", "")
    if record.task == "summary" and record.reference:
        text = judge_prompts.MLVU_SUMMARY.format(reference=record.reference, answer=one.answer)
        return Question(judge_prompts.MLVU_SUMMARY_SYSTEM, text, settings)
    if not record.is_choice and record.scoring_points:
        text = judge_prompts.MLVU_SUB_SCENE.format(
            question=question, points=record.scoring_points, answer=one.answer
        )
        return Question(judge_prompts.MLVU_SUB_SCENE_SYSTEM, text, settings)
    return None


_MLVU_KEYS = {
    "VS": ("score_completeness", "score_reliability"),
    "SSC": ("score_accuracy", "score_relevance"),
}


def _part(one: Rated) -> str:
    return "VS" if one.record.task == "summary" else "SSC"


def _read_mlvu(one: Rated, reply: str | None) -> dict[str, float]:
    """The sum of two scores; 0 if they are not both there, as in the authors' script."""
    patterns = [rf"{key}['\"]?\s*:\s*(\d+(?:\.\d+)?)" for key in _MLVU_KEYS[_part(one)]]
    found = [re.search(pattern, reply or "") for pattern in patterns]
    return {"score": sum(float(each[1]) for each in found) if all(found) else 0.0}


def _summarise_mlvu(judged: Sequence[Judged]) -> dict[str, float]:
    """`SSC` and `VS`, from 2 to 10, and `G-Avg`, their mean, if both were asked."""
    metrics = {}
    for name in _MLVU_KEYS:
        scores = [each.measures["score"] for each in judged if _part(each.one) == name]
        if scores:
            metrics[f"judged/{name}"] = mean(scores)
    if len(metrics) == len(_MLVU_KEYS):
        metrics["judged/G-Avg"] = mean(metrics.values())
    return metrics


def _ask_tempcompass(one: Rated) -> Question | None:
    caption, record = one.answer.replace("</s>", "").strip(), one.record
    if not caption or not record.paired_question:
        return None
    text = judge_prompts.TEMPCOMPASS.format(caption=caption, question=record.paired_question)
    settings = {"max_tokens": 128, "temperature": 1.0, "top_p": 1, "presence_penalty": 1}
    return Question(judge_prompts.TEMPCOMPASS_SYSTEM, text, settings)


def _read_tempcompass(one: Rated, reply: str | None) -> dict[str, float]:
    right = reply is not None and tempcompass.captioning_judged(reply, gold=one.record.gold)
    return {"right": float(right)}


def _ask_vstar(one: Rated) -> Question | None:
    if not one.answer:
        return None
    text = judge_prompts.VSTAR.format(
        question=one.record.what, reference=one.record.answer, answer=one.answer
    )
    return Question(judge_prompts.VSTAR_SYSTEM, text, {"max_tokens": 512, "temperature": 0})


def _read_vstar(one: Rated, reply: str | None) -> dict[str, float]:
    """Right from a rating of 2; a reply that is no integer is wrong."""
    del one
    try:
        rating = int(reply or "-1")
    except ValueError:
        rating = -1
    return {"rating": rating, "right": float(rating >= _RIGHT_RATING)}


def _accuracies(judged: Sequence[Judged]) -> dict[str, float]:
    """`accuracy` and that of each group."""
    groups: dict[str, list[float]] = {"accuracy": []}
    for each in judged:
        for name in ("accuracy", *each.one.record.groups):
            groups.setdefault(name, []).append(each.measures["right"])
    return {f"judged/{name}": percent(values) for name, values in groups.items()}


_MLVU = Judging(_ask_mlvu, _read_mlvu, _summarise_mlvu)
JUDGINGS: Mapping[str, Judging] = {
    "mlvu_dev": _MLVU,
    "mlvu_test": _MLVU,
    "tempcompass_captioning": Judging(_ask_tempcompass, _read_tempcompass, _accuracies),
    "vstar_what": Judging(_ask_vstar, _read_vstar, _accuracies),
}


def judged_by(judging: Judging, rated: Sequence[Rated], replies: Mapping[Any, str]) -> list[Judged]:
    """Answers with a reply by their id, and those that are wrong without one for being empty."""
    return [
        Judged(one, judging.read(one, replies.get(one.record.id)))
        for one in rated
        if one.record.id in replies or _is_empty(one)
    ]


def _is_empty(one: Rated) -> bool:
    is_choice = getattr(one.record, "is_choice", False)
    return one.verdict.correct is False and not one.answer.strip() and not is_choice
