"""Boxes in pixels: how V-STaR reads them from a reply, and how well they overlap."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax

_FENCED = re.compile(r"```json\s*\n(\[.*?\]|\{.*?\})\s*\n```", re.DOTALL)


def read_boxes(reply: str) -> dict[str, list]:
    """The box of each second, or a list of several, under its name as written; maybe none.

    Read are an object, a list of objects or a list of `[second, box]`, fenced as JSON or the
    longest stretch in brackets; with brackets that do not balance only an object. What is no box of
    four finite numbers is left out.
    """
    text = _stretch(reply).strip().replace("'", '"')
    try:
        found = _by_second(json.loads(text))
    except (ValueError, TypeError, LookupError, RecursionError):
        found = _repaired(text)
    cleaned = {second: _cleaned(boxes) for second, boxes in found.items()}
    return {second: boxes for second, boxes in cleaned.items() if boxes}


def best_iou(truth: Box, boxes: Sequence | None) -> float:
    """IoU of a box, or the best of several boxes, with the true one; 0 without any."""
    if not boxes:
        return 0.0
    several = boxes if isinstance(boxes[0], list) else [boxes]
    return max(_iou(truth, box) for box in several)


def _stretch(reply: str) -> str:
    """From a bracket to the last that may close it; of the two kinds what begins first."""
    fenced = _FENCED.search(reply)
    if fenced:
        return fenced[1]
    ends = ((reply.find(left), reply.rfind(right)) for left, right in ("[]", "{}"))
    found = [(start, end) for start, end in ends if 0 <= start < end]
    start, end = min(found, default=(0, -1))
    return reply[start : end + 1]


def _cleaned(boxes: Any) -> list:
    """A box, or of a list what are boxes; nothing if a side is no number, as in the script."""
    if not isinstance(boxes, list) or not boxes:
        return []
    is_single = isinstance(boxes[0], int | float)
    several = [boxes] if is_single else boxes
    fours = [box for box in several if isinstance(box, list) and len(box) == 4]
    try:
        finite = [box for box in fours if sum(map(math.isfinite, box)) == 4]
    except (TypeError, OverflowError):
        return []
    return finite[0] if is_single and finite else finite


def _by_second(boxes: Any) -> Mapping[str, Any]:
    if isinstance(boxes, list):
        if all(isinstance(item, dict) for item in boxes):
            return {name: box for item in boxes for name, box in item.items()}
        return {str(item[0]): item[1] for item in boxes}
    return boxes if isinstance(boxes, dict) else {}


def _repaired(text: str) -> Mapping[str, Any]:
    for left, right in ("[]", "{}"):
        missing = text.count(left) - text.count(right)
        text = left * -missing + text + right * missing
    try:
        boxes = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return boxes if isinstance(boxes, Mapping) else {}


def _iou(truth: Box, box: Sequence[float]) -> float:
    box = tuple(map(float, box))  # The area of huge integers would not fit a float.
    left, top = max(truth[0], box[0]), max(truth[1], box[1])
    right, bottom = min(truth[2], box[2]), min(truth[3], box[3])
    overlap = max(0.0, right - left) * max(0.0, bottom - top)
    union = _area(truth) + _area(box) - overlap
    return overlap / union if union > 0 else 0.0


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
