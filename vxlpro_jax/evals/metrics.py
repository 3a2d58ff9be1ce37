"""Metrics that benchmarks share: means, accuracies, and overlaps of spans and boxes."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from vxlpro_jax.evals.benchmark import JudgedRecord, Profile, Score, ScoredRecord
from vxlpro_jax.evals.parsing import Box, TimeSpan, find_span

# An answer counts as right from this IoU on.
RIGHT_IOU = 0.5
IOU_THRESHOLDS = (0.3, 0.5, 0.7)


def mean(values: Iterable[float]) -> float:
    """Returns the mean; 0 if there are no values."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def percent(values: Iterable[float]) -> float:
    """Returns the mean times 100."""
    return 100 * mean(values)


def by_group(scored: Iterable[ScoredRecord]) -> dict[str, list[ScoredRecord]]:
    """Groups scored records, in the order in which groups first appear."""
    groups = defaultdict(list)
    for one in scored:
        for name in one.record.groups:
            groups[name].append(one)
    return dict(groups)


def accuracy(scored: Iterable[ScoredRecord]) -> float:
    """Returns the percentage of right answers among those that count; 0 if none counts."""
    return percent(one.score.correct for one in scored if one.score.correct is not None)


def group_accuracies(scored: Sequence[ScoredRecord]) -> dict[str, float]:
    """Computes the accuracy of each group; groups with only pending answers are left out."""
    decided = [one for one in scored if not one.score.is_pending]
    return {name: accuracy(members) for name, members in by_group(decided).items()}


def pooled_accuracies(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `overall`, in which each question counts once, and the accuracy of each group."""
    del profile
    return {"overall": accuracy(scored), **group_accuracies(scored)}


def judged_accuracies(judged: Sequence[JudgedRecord]) -> dict[str, float]:
    """Computes `judged/accuracy` and that of each group, from each answer's measure `right`."""
    groups: dict[str, list[float]] = {"accuracy": []}
    for each in judged:
        for name in ("accuracy", *each.scored.record.groups):
            groups.setdefault(name, []).append(each.measures["right"])
    return {f"judged/{name}": percent(values) for name, values in groups.items()}


# ---- Spans of time ------------------------------------------------------------------------------


def temporal_iou(truth: Sequence[float], span: Sequence[float] | None) -> float:
    """Computes the intersection of two spans over their hull, 0 to 1.

    The result is 0 if there is no second span or the hull is empty.
    """
    if span is None:
        return 0.0
    hull = max(truth[1], span[1]) - min(truth[0], span[0])
    overlap = max(0.0, min(truth[1], span[1]) - max(truth[0], span[0]))
    return overlap / hull if hull > 0 else 0.0


def temporal_set_iou(truth: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    """Computes the IoU of two sets of spans, 0 to 1: seconds in both over seconds in either.

    Spans of a set may overlap; a span whose end is not after its start is empty.
    """
    edges = sorted({edge for span in (*truth, *found) for edge in span})
    both = either = 0.0
    for start, end in itertools.pairwise(edges):
        in_truth, in_found = (
            any(span[0] <= start and end <= span[1] for span in spans) for spans in (truth, found)
        )
        both += (end - start) * (in_truth and in_found)
        either += (end - start) * (in_truth or in_found)
    return both / either if either > 0 else 0.0


def score_span(truth: TimeSpan, span: TimeSpan | None, answer: str) -> Score:
    """Scores an answer about one time span, which is right from an IoU of 0.5.

    Its measures are `iou`, for the span that the benchmark's parser found, and `robust_iou`, for
    the span that `find_span` finds in the same answer. A span of infinite seconds counts as none.
    """
    span = span if span and all(map(math.isfinite, span)) else None
    overlap = temporal_iou(truth, span)
    measures = {"iou": overlap, "robust_iou": temporal_iou(truth, find_span(answer))}
    return Score(list(span) if span else None, overlap >= RIGHT_IOU, measures=measures)


def span_metrics(scored: Sequence[ScoredRecord], *, mean_name: str) -> dict[str, float]:
    """Computes the mean IoU, named `mean_name`, and `R1@0.3` to `R1@0.7`; also with `robust/`."""
    return {
        **recall_at_iou(scored, measure="iou", mean_name=mean_name),
        **{
            f"robust/{name}": value
            for name, value in recall_at_iou(
                scored, measure="robust_iou", mean_name=mean_name
            ).items()
        },
    }


def recall_at_iou(
    scored: Sequence[ScoredRecord], *, measure: str, mean_name: str
) -> dict[str, float]:
    """Computes the mean IoU and the percentages of answers with an IoU of at least 0.3, 0.5, 0.7.

    Args:
        scored: scored answers.
        measure: name of the IoU among the measures of a score.
        mean_name: name of the mean among the metrics.
    """
    values = [one.score.measures[measure] for one in scored]
    recalls = {
        f"R1@{least}": percent(value >= least for value in values) for least in IOU_THRESHOLDS
    }
    return {mean_name: percent(values), **recalls}


def last_of_each(
    scored: Sequence[ScoredRecord], *, key: Callable[[ScoredRecord], str]
) -> list[ScoredRecord]:
    """Returns the last scored record per key, in the order in which keys first appear."""
    return list({key(one): one for one in scored}.values())


# ---- Boxes --------------------------------------------------------------------------------------


def best_box_iou(truth: Box, boxes: Sequence | None) -> float:
    """Returns the IoU of a box, or of the best of several, with the true box; 0 without any."""
    if not boxes:
        return 0.0
    several = boxes if isinstance(boxes[0], list) else [boxes]
    return max(_box_iou(truth, box) for box in several)


def _box_iou(truth: Box, box: Sequence[float]) -> float:
    box = tuple(map(float, box))  # The area of huge integers would not fit a float.
    left, top = max(truth[0], box[0]), max(truth[1], box[1])
    right, bottom = min(truth[2], box[2]), min(truth[3], box[3])
    overlap = max(0.0, right - left) * max(0.0, bottom - top)
    union = _box_area(truth) + _box_area(box) - overlap
    return overlap / union if union > 0 else 0.0


def _box_area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
