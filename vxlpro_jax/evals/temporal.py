"""What benchmarks of temporal grounding share: verdicts and metrics of spans."""

import math
from collections.abc import Callable, Sequence

from vxlpro_jax.evals.scoring import Rated, Verdict, percent
from vxlpro_jax.evals.spans import THRESHOLDS, Span, find_span, iou

RIGHT_IOU = 0.5


def span_verdict(truth: Span, span: Span | None, answer: str) -> Verdict:
    """Right at an IoU of 0.5; a span that is infinite, of hundreds of digits, is none.

    Measures are `iou` of the span that the benchmark's parser found, and `robust_iou` of what
    `find_span` makes of the same answer.
    """
    span = span if span and all(map(math.isfinite, span)) else None
    overlap = iou(truth, span)
    measures = {"iou": overlap, "robust_iou": iou(truth, find_span(answer))}
    return Verdict(list(span) if span else None, overlap >= RIGHT_IOU, measures=measures)


def span_metrics(rated: Sequence[Rated], *, mean_name: str) -> dict[str, float]:
    """The mean IoU, called `mean_name`, and `R1@0.3` to `R1@0.7`; the same of `robust/`."""
    metrics = {}
    for prefix, measure in (("", "iou"), ("robust/", "robust_iou")):
        values = [one.verdict.measures[measure] for one in rated]
        metrics[f"{prefix}{mean_name}"] = percent(values)
        for least in THRESHOLDS:
            metrics[f"{prefix}R1@{least}"] = percent(value >= least for value in values)
    return metrics


def merge(rated: Sequence[Rated], *, key: Callable[[Rated], str]) -> list[Rated]:
    """One rated record for each key, the last; in the order in which keys appear."""
    return list({key(one): one for one in rated}.values())
