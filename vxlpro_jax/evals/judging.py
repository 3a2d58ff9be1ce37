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
        read: measures of an answer, by the judge's reply, None if the verdict stands without it.
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


_TEMPCOMPASS_SETTINGS = {"max_tokens": 128, "temperature": 1.0, "top_p": 1, "presence_penalty": 1}


def _ask_captioning(one: Rated) -> Question | None:
    caption, record = tempcompass.cleaned(one.answer), one.record
    if not caption or not record.paired_question:
        return None
    text = judge_prompts.TEMPCOMPASS.format(caption=caption, question=record.paired_question)
    return Question(judge_prompts.TEMPCOMPASS_SYSTEM, text, _TEMPCOMPASS_SETTINGS)


def _read_captioning(one: Rated, reply: str | None) -> dict[str, float]:
    right = reply is not None and tempcompass.captioning_judged(reply, gold=one.record.gold)
    return {"right": float(right)}


def _ask_matching(one: Rated) -> Question | None:
    """About what the authors' rules do not match."""
    answer, record = tempcompass.cleaned(one.answer), one.record
    if not answer or one.verdict.parsed is not None:
        return None
    text = judge_prompts.TEMPCOMPASS_MATCHING.format(
        question=record.question, reference=record.gold, answer=answer
    )
    return Question(judge_prompts.TEMPCOMPASS_MATCHING_SYSTEM, text, _TEMPCOMPASS_SETTINGS)


def _read_matching(one: Rated, reply: str | None) -> dict[str, float]:
    """The rules' verdict, else whether the judge says "Correct"; one that says neither is wrong."""
    if reply is None:
        return {"right": float(one.verdict.correct)}
    is_right = "Correct" in reply and ("Incorrect" not in reply or reply.startswith("Correct"))
    return {"right": float(is_right)}


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
_MATCHING = Judging(_ask_matching, _read_matching, _accuracies)
JUDGINGS: Mapping[str, Judging] = {
    "mlvu_dev": _MLVU,
    "mlvu_test": _MLVU,
    "tempcompass_multi_choice": _MATCHING,
    "tempcompass_yes_no": _MATCHING,
    "tempcompass_caption_matching": _MATCHING,
    "tempcompass_captioning": Judging(_ask_captioning, _read_captioning, _accuracies),
    "vstar_what": Judging(_ask_vstar, _read_vstar, _accuracies),
}


def settled(judging: Judging, rated: Sequence[Rated]) -> set[Any]:
    """Ids of answers that a judge need not see, as their verdict stands: empty ones, or matched."""
    return {
        one.record.id
        for one in rated
        if not one.verdict.is_pending
        and not getattr(one.record, "is_choice", False)
        and judging.ask(one) is None
    }


def with_judge(
    found: dict[str, Any], name: str, rated: Sequence[Rated], replies: Mapping[Any, str | None]
) -> dict[str, Any]:
    """What `score.report` found, with a judge's measures and metrics.

    Args:
        found: of the rated records.
        name: of the benchmark, one of `JUDGINGS`.
        rated: the records.
        replies: the judge's by id, None of those that are `settled`; others stay unscored.
    """
    how = JUDGINGS[name]
    judged = [
        Judged(one, how.read(one, replies[one.record.id]))
        for one in rated
        if one.record.id in replies
    ]
    measures = {each.one.record.id: dict(each.measures) for each in judged}
    left = {one.record.id for one in rated if one.verdict.is_pending or how.ask(one)}
    unscored = [one.record.id for one in rated if one.record.id in left - measures.keys()]
    return {
        **found,
        "metrics": {**found["metrics"], **how.summarise(judged)},
        "counts": {**found["counts"], "unscored": len(unscored)},
        "unscored": unscored,
        "per_item": [
            {**item, "judged": measures[item["id"]]} if item["id"] in measures else item
            for item in found["per_item"]
        ],
    }
