"""Boxes in pixels: how V-STaR reads them from a reply, and how well they overlap."""

import json
import re
from collections.abc import Mapping
from typing import Any

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax

_FENCED = re.compile(r"```json\s*\n(\[.*?\]|\{.*?\})\s*\n```", re.DOTALL)
_BARE = re.compile(r"(\[.*\]|\{.*\})", re.DOTALL)


def read_boxes(reply: str) -> dict[str, Any]:
    """The boxes of each second, under its name as written; of a reply without any, none.

    Read are an object, a list of objects or a list of `[second, box]`, fenced as JSON or the
    longest stretch in brackets; with brackets that do not balance only an object.
    """
    found = _FENCED.search(reply) or _BARE.search(reply)
    if not found:
        return {}
    text = found[1].strip().replace("'", '"')
    try:
        return _by_second(json.loads(text))
    except (ValueError, TypeError, LookupError, RecursionError):
        return _repaired(text)


def best_iou(truth: Box, boxes: Any) -> float:
    """IoU of a box, or the best of several boxes, with the true one; 0 of anything else."""
    try:
        if isinstance(boxes[0], int | float):
            boxes = [boxes]
        return max(_iou(truth, box) for box in boxes)
    except (ValueError, TypeError, LookupError, OverflowError):
        return 0.0


def _by_second(boxes: Any) -> dict[str, Any]:
    if isinstance(boxes, list):
        if all(isinstance(item, dict) for item in boxes):
            return {name: box for item in boxes for name, box in item.items()}
        return {str(item[0]): item[1] for item in boxes}
    return boxes


def _repaired(text: str) -> dict[str, Any]:
    for left, right in ("[]", "{}"):
        missing = text.count(left) - text.count(right)
        text = left * -missing + text + right * missing
    try:
        boxes = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return boxes if isinstance(boxes, Mapping) else {}


def _iou(truth: Box, box: Any) -> float:
    if not isinstance(box, list) or len(box) != 4:
        return 0.0
    left, top = max(truth[0], box[0]), max(truth[1], box[1])
    right, bottom = min(truth[2], box[2]), min(truth[3], box[3])
    overlap = max(0.0, right - left) * max(0.0, bottom - top)
    union = _area(truth) + _area(box) - overlap
    return overlap / union if union > 0 else 0.0


def _area(box: Any) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
