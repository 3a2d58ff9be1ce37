"""V-STaR: what, when and where, asked in two orders: chains 1 and 2.

An answer that is missing is wrong and stays in every denominator; the authors' script leaves rows
without a `what` answer out of some means only.
"""

import functools
import math
import re
from collections.abc import Sequence

from vxlpro_jax.evals import temporal
from vxlpro_jax.evals.benchmarks import vstar_prompts
from vxlpro_jax.evals.benchmarks.vstar_questions import Question, read
from vxlpro_jax.evals.boxes import best_iou, read_boxes
from vxlpro_jax.evals.scoring import (
    PENDING,
    Benchmark,
    Profile,
    Prompt,
    Rated,
    Verdict,
    by_group,
    mean,
    percent,
)
from vxlpro_jax.evals.spans import Span

BOX_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)

_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")


def prompt_what(question: Question, profile: Profile) -> Prompt:
    """The authors' prompt."""
    del profile
    return Prompt(vstar_prompts.WHAT.format(question.what))


def prompt_when(question: Question, profile: Profile, *, chain: int) -> Prompt:
    """The authors' prompt; chain 2 tells the boxes."""
    del profile
    width, height = question.size
    return Prompt(
        vstar_prompts.WHEN[chain].format(
            length=question.length,
            width=width,
            height=height,
            question=question.when,
            count=len(question.boxes),
            boxes=[list(timed.box) for timed in question.boxes],
        )
    )


def prompt_where(question: Question, profile: Profile, *, chain: int) -> Prompt:
    """The authors' prompt; chain 1 tells the seconds."""
    del profile
    first, last = math.ceil(question.span.start), math.floor(question.span.end)
    return Prompt(
        vstar_prompts.WHERE[chain].format(
            question=question.where[chain - 1],
            seconds=list(range(first, last + 1)),
            first=first,
            count=len(question.boxes),
        )
    )


def rate_what(question: Question, answer: str, profile: Profile) -> Verdict:
    """Wrong without an answer; the rest is for a judge model."""
    del question, profile
    return PENDING if answer else Verdict(None, False)


def rate_when(question: Question, answer: str, profile: Profile) -> Verdict:
    """The IoU with the two numbers of an answer that has exactly two, as they stand."""
    del profile
    numbers = _NUMBER.findall(answer)
    span = Span(*map(float, numbers)) if len(numbers) == 2 else None
    return temporal.span_verdict(question.span, span, answer)


def rate_where(question: Question, answer: str, profile: Profile) -> Verdict:
    """The mean IoU of the annotated boxes with those of the same second; right from 0.5."""
    del profile
    found = read_boxes(answer)
    ious = [best_iou(timed.box, found.get(timed.second)) for timed in question.boxes]
    shares = {f"AP@{least}": mean(iou >= least for iou in ious) for least in BOX_THRESHOLDS}
    overlap = mean(ious)
    measures = {"iou": overlap, **shares}
    return Verdict(found or None, overlap >= temporal.RIGHT_IOU, measures=measures)


def summarise_what(rated: Sequence[Rated], profile: Profile) -> dict[str, float]:
    """`answered`, the share of answers that a judge has to rate."""
    del profile
    return {"answered": percent(one.verdict.is_pending for one in rated)}


def summarise_when(rated: Sequence[Rated], profile: Profile) -> dict[str, float]:
    """`m_tIoU` and `R1@`, over all rows; of each group the mean IoU."""
    del profile
    return {**temporal.span_metrics(rated, mean_name="m_tIoU"), **_group_ious(rated)}


def summarise_where(rated: Sequence[Rated], profile: Profile) -> dict[str, float]:
    """`m_vIoU` and `AP@`, over all rows; of each group the mean IoU."""
    del profile
    names = [f"AP@{least}" for least in BOX_THRESHOLDS]
    metrics = {name: percent(one.verdict.measures[name] for one in rated) for name in names}
    return {"m_vIoU": _mean_iou(rated), **metrics, **_group_ious(rated)}


def arithmetic_mean(*shares: float) -> float:
    """AM of the accuracy of `what`, m_tIoU and m_vIoU, each from 0 to 1."""
    return mean(shares)


def log_geometric_mean(*shares: float) -> float:
    """LGM of the accuracy of `what`, m_tIoU and m_vIoU, each from 0 to 1; infinite at 1."""
    return mean(-math.log(1 - share) if share < 1 else math.inf for share in shares)


def _mean_iou(rated: Sequence[Rated]) -> float:
    return percent(one.verdict.measures["iou"] for one in rated)


def _group_ious(rated: Sequence[Rated]) -> dict[str, float]:
    return {name: _mean_iou(members) for name, members in by_group(rated).items()}


def what(chain: int) -> Benchmark:
    """The `what` questions, which open both chains."""
    del chain
    return Benchmark(
        read=read, prompt=prompt_what, rate=rate_what, summarise=summarise_what, fps=1.0
    )


def when(chain: int) -> Benchmark:
    """The `when` questions of a chain."""
    asked = functools.partial(prompt_when, chain=chain)
    return Benchmark(read=read, prompt=asked, rate=rate_when, summarise=summarise_when, fps=1.0)


def where(chain: int) -> Benchmark:
    """The `where` questions of a chain."""
    asked = functools.partial(prompt_where, chain=chain)
    return Benchmark(read=read, prompt=asked, rate=rate_where, summarise=summarise_where, fps=1.0)
