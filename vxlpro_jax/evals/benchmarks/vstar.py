"""V-STaR: the questions what, when and where, asked in two orders, chains 1 and 2.

A missing answer is wrong and counts in every denominator. The authors' script omits rows without a
`what` answer from only some means.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.evals.annotations import AnnotationRow, is_number, read_rows
from vxlpro_jax.evals.benchmark import (
    PENDING,
    Benchmark,
    Budget,
    JudgeRequest,
    Profile,
    Prompt,
    Published,
    Record,
    Rubric,
    Score,
    ScoredRecord,
)
from vxlpro_jax.evals.metrics import (
    RIGHT_IOU,
    best_box_iou,
    by_group,
    judged_accuracies,
    mean,
    percent,
    recall_at_iou,
    score_span,
    span_metrics,
)
from vxlpro_jax.evals.numerals import plain_numbers
from vxlpro_jax.evals.parsing import Box, TimeSpan, read_boxes

BOX_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)

_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")
_CHAINS = (1, 2)
_BOXES = "boxes with timestamp, xmin, ymin, xmax and ymax"
# A judge rates from 0 to 3.
_RIGHT_RATING = 2

# ---- Prompts, word for word the authors' --------------------------------------------------------

_WHAT = (
    "Answer the question about the video: {} \n (If the answer is a person, you don't need to"
    " identify the person.)"
)
_WHEN = {
    1: (
        "This video is {length} seconds long. Answer the question about the video: {question} \n"
        " Output the start and end moment timestamps."
    ),
    2: (
        "This video is {length} seconds long with a resolution of {width}x{height} (width x"
        " height). Answer the question about the video: {question} \n There are {count} bounding"
        " boxes of the key object related to the question in the video without knowing the time,"
        " which are:{boxes}. Output the start and end moment timestamps."
    ),
}
# The authors' script indents its prompts.
_INDENT = "\n" + 20 * " "
_WHERE_START = (
    "Please answer the question about the video: {question} with a series of bounding boxes in"
    " [x1, y1, x2, y2] format. \n"
)
_WHERE = {
    1: _INDENT.join(
        (
            _WHERE_START,
            "For each whole second within the time range {seconds} provided (inclusive of the"
            " boundaries), output a series of bounding boxes of the object in JSON format. The keys"
            " should be the whole seconds (as strings), and the values should be the box in"
            " [x1, y1, x2, y2] format.",
            'Example output: {{"{first}": [x1, y1, x2, y2],...}}',
            "",
        )
    ),
    2: _INDENT.join(
        (
            _WHERE_START,
            "For each whole second that may related to the question, output a series of bounding"
            " boxes of the object in JSON format. You only need to output {count} bbox(es). You"
            " need to determine which frame is related to the question, and you don't need to"
            " output the bbox for the frames not related to the question.",
            "The keys should be the whole seconds (as strings), and the values should be the"
            " bounding box in [x0,y0,x1,y1] format. ",
            "\n Example output:",
            '{{"0": [x0,y0,x1,y1], "1":..., ..., "{count}":...}} (if the frames at 0~{count}'
            " second are related to the questions)",
            "",
        )
    ),
}


# ---- Annotations --------------------------------------------------------------------------------


class TimedBox(NamedTuple):
    """A box in pixels at a `second`, which is a text as in the annotations."""

    second: str
    box: Box


@dataclasses.dataclass(frozen=True, kw_only=True)
class VstarQuestion(Record):
    """The three questions of one row and their right answers.

    Attributes:
        domain: domain of the video.
        length: length of the video, in seconds.
        size: width and height of the video, in pixels.
        what: question that the text `answer` answers.
        when: question that `span` answers.
        where: question in chain 1 and in chain 2, both answered by `boxes`.
    """

    domain: str
    length: float
    size: tuple[float, float]
    what: str
    when: str
    where: tuple[str, str]
    answer: str
    span: TimeSpan
    boxes: tuple[TimedBox, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The video's duration (short below a minute, long from three on) and its domain."""
        limits = (("short", 60), ("medium", 180), ("long", math.inf))
        duration = next(name for name, limit in limits if self.length < limit)
        return (f"duration/{duration}", f"domain/{self.domain}")


def _read(path: Path) -> list[VstarQuestion]:
    """Reads `V_STaR_test.json`.

    Raises:
        InputError: the file or a record cannot be used.
    """
    return [_question(row) for row in read_rows(path)]


def _question(row: AnnotationRow) -> VstarQuestion:
    fps = row.number("fps")
    if fps <= 0:
        raise row.wrong("fps", "a number above 0")
    return VstarQuestion(
        id=row.id(),
        video=f"{row.text('vid')}.mp4",
        domain=row.text("domain") if row.fields.get("domain") else "unknown",
        length=round(row.number("frame_count") / fps, 2),
        size=(row.number("width"), row.number("height")),
        what=row.text("question"),
        when=row.text("temporal_question"),
        where=(row.text("spatial_question"), row.text("spatial_question_2")),
        answer=row.text("answer"),
        span=TimeSpan(*row.span("timestamps")),
        boxes=tuple(_timed_box(row, box) for box in _listed(row, "bboxes")),
    )


def _listed(row: AnnotationRow, key: str) -> list[Any]:
    return [] if row.fields.get(key) == [] else row.entries(key)


def _timed_box(row: AnnotationRow, box: Any) -> TimedBox:
    try:
        if "timestamp" not in box:  # The form in the authors' README.
            ((name, box),) = box.items()
            second = name.split("_")[0]
        else:
            second = str(box["timestamp"])
        corners = tuple(box[side] for side in ("xmin", "ymin", "xmax", "ymax"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise row.wrong("bboxes", _BOXES) from error
    if not all(map(is_number, corners)):
        raise row.wrong("bboxes", _BOXES)
    return TimedBox(second, corners)


# ---- What ---------------------------------------------------------------------------------------


def _prompt_what(question: VstarQuestion, profile: Profile) -> Prompt:
    del profile
    return Prompt(_WHAT.format(question.what))


def _score_what(question: VstarQuestion, answer: str, profile: Profile) -> Score:
    """Scores an empty answer as wrong; any other answer waits for a judge model."""
    del question, profile
    return PENDING if answer else Score(None, False)


def _aggregate_what(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `answered`, the percentage of answers that a judge has to rate."""
    del profile
    return {"answered": percent(one.score.is_pending for one in scored)}


# The criteria and the scale are the authors', but in our own words, because their texts may not be
# copied.
_JUDGE_SYSTEM = (
    "You compare an answer with the right one by their meaning alone, not their grammar. Reply with"
    " one digit. 0: they have nothing in common, the answer is wrong. 1: little, it is mostly"
    " wrong. 2: much, it is mostly right. 3: they mean the same."
)
_JUDGE = "Question: {question}\nRight answer: {reference}\nAnswer: {answer}"


def _judge_request(one: ScoredRecord) -> JudgeRequest | None:
    if not one.answer:
        return None
    text = _JUDGE.format(question=one.record.what, reference=one.record.answer, answer=one.answer)
    return JudgeRequest(_JUDGE_SYSTEM, text, {"max_tokens": 512, "temperature": 0})


def _read_judge_reply(one: ScoredRecord, reply: str | None) -> dict[str, float]:
    """Counts a rating of 2 or more as right; a reply that is not an integer is wrong."""
    del one
    try:
        rating = int(reply or "-1")
    except ValueError:
        rating = -1
    return {"rating": rating, "right": float(rating >= _RIGHT_RATING)}


# ---- When ---------------------------------------------------------------------------------------


def _prompt_when(question: VstarQuestion, profile: Profile, *, chain: int) -> Prompt:
    """Makes the prompt; in chain 2 it gives the boxes."""
    del profile
    width, height = question.size
    return Prompt(
        _WHEN[chain].format(
            length=question.length,
            width=width,
            height=height,
            question=question.when,
            count=len(question.boxes),
            boxes=[list(timed.box) for timed in question.boxes],
        )
    )


def _score_when(question: VstarQuestion, answer: str, profile: Profile) -> Score:
    """Computes the IoU if the answer has exactly two numbers, taken in their order.

    Unlike here, the authors' script truncates numbers before non-ASCII units.
    """
    del profile
    numbers = _NUMBER.findall(plain_numbers(answer))
    span = TimeSpan(*map(float, numbers)) if len(numbers) == 2 else None
    return score_span(question.span, span, answer)


def _aggregate_when(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `m_tIoU` and `R1@` over all rows and per group; a group's name is its mean."""
    del profile
    return {**span_metrics(scored, mean_name="m_tIoU"), **_of_groups(scored, _recalls)}


def _recalls(scored: Sequence[ScoredRecord]) -> dict[str, float]:
    return recall_at_iou(scored, measure="iou", mean_name="")


# ---- Where --------------------------------------------------------------------------------------


def _prompt_where(question: VstarQuestion, profile: Profile, *, chain: int) -> Prompt:
    """Makes the prompt; in chain 1 it gives the seconds."""
    del profile
    first, last = math.ceil(question.span.start), math.floor(question.span.end)
    return Prompt(
        _WHERE[chain].format(
            question=question.where[chain - 1],
            seconds=list(range(first, last + 1)),
            first=first,
            count=len(question.boxes),
        )
    )


def _score_where(question: VstarQuestion, answer: str, profile: Profile) -> Score:
    """Computes the mean IoU of the annotated boxes with the answer's boxes of the same seconds."""
    del profile
    found = read_boxes(answer)
    ious = [best_box_iou(timed.box, found.get(timed.second)) for timed in question.boxes]
    shares = {f"AP@{least}": mean(iou >= least for iou in ious) for least in BOX_THRESHOLDS}
    overlap = mean(ious)
    measures = {"iou": overlap, **shares}
    return Score(found or None, overlap >= RIGHT_IOU, measures=measures)


def _aggregate_where(scored: Sequence[ScoredRecord], profile: Profile) -> dict[str, float]:
    """Computes `m_vIoU` and `AP@` over all rows and per group; a group's name is its mean."""
    del profile
    means = _box_metrics(scored)
    return {"m_vIoU": means.pop(""), **means, **_of_groups(scored, _box_metrics)}


def _box_metrics(scored: Sequence[ScoredRecord]) -> dict[str, float]:
    """Returns the mean IoU, under the name "", and the `AP@`."""
    names = {"iou": "", **{f"AP@{least}": f"AP@{least}" for least in BOX_THRESHOLDS}}
    return {
        name: percent(one.score.measures[measure] for one in scored)
        for measure, name in names.items()
    }


def _of_groups(
    scored: Sequence[ScoredRecord], metrics: Callable[[Sequence[ScoredRecord]], dict[str, float]]
) -> dict[str, float]:
    """Computes metrics per group, such as `duration/short/R1@0.3`."""
    return {
        f"{group}/{name}" if name else group: value
        for group, members in by_group(scored).items()
        for name, value in metrics(members).items()
    }


# ---- All three together -------------------------------------------------------------------------


def arithmetic_mean(*shares: float) -> float:
    """Computes V-STaR's AM of accuracy, m_tIoU and m_vIoU, each from 0 to 1."""
    return mean(shares)


def log_geometric_mean(*shares: float) -> float:
    """Computes V-STaR's LGM of accuracy, m_tIoU and m_vIoU (0 to 1); infinite if one is 1."""
    return mean(-math.log(1 - share) if share < 1 else math.inf for share in shares)


def _with_chains(make: Callable[[int], Benchmark]) -> Benchmark:
    """Returns chain 1 of a benchmark, with the other chains as its `other_chains`."""
    first, *others = map(make, _CHAINS)
    return dataclasses.replace(first, other_chains=dict(zip(_CHAINS[1:], others, strict=True)))


def _what(chain: int) -> Benchmark:
    """Returns the `what` questions, which are the same in both chains."""
    del chain
    return Benchmark(
        name="vstar_what",
        read=_read,
        prompt=_prompt_what,
        score=_score_what,
        aggregate=_aggregate_what,
        budget=Budget(max_frames=3600, max_new_tokens=256),
        fps=1.0,
        rubric=Rubric(
            request=_judge_request, read_reply=_read_judge_reply, aggregate=judged_accuracies
        ),
    )


def _when(chain: int) -> Benchmark:
    return Benchmark(
        name="vstar_when",
        read=_read,
        prompt=functools.partial(_prompt_when, chain=chain),
        score=_score_when,
        aggregate=_aggregate_when,
        budget=Budget(max_frames=3600, max_new_tokens=256),
        fps=1.0,
        # The chain of the published figures is unknown.
        published=Published(figures={"m_tIoU": 25.07, "R1@0.7": 15.58}, num_questions=(2094,)),
        true_span=lambda question: question.span,
    )


def _where(chain: int) -> Benchmark:
    return Benchmark(
        name="vstar_where",
        read=_read,
        prompt=functools.partial(_prompt_where, chain=chain),
        score=_score_where,
        aggregate=_aggregate_where,
        budget=Budget(max_frames=3600, max_new_tokens=1024),
        fps=1.0,
    )


WHAT, WHEN, WHERE = map(_with_chains, (_what, _when, _where))
BENCHMARKS = (WHAT, WHEN, WHERE)
