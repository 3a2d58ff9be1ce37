"""Rows of V-STaR's annotations, each with a question of what, when and where."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.evals.annotations import Row, read_rows
from vxlpro_jax.evals.boxes import Box
from vxlpro_jax.evals.spans import Span


class TimedBox(NamedTuple):
    """Attributes: `second`, its name as the annotations write it; `box` in pixels."""

    second: str
    box: Box


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """The questions of one row, and what is right."""

    id: str | int
    video: str
    domain: str
    length: float
    size: tuple[int, int]
    what: str
    when: str
    where: tuple[str, str]
    answer: str
    span: Span
    boxes: tuple[TimedBox, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """Its video's duration (short is below a minute, long from three) and domain."""
        limits = (("short", 60), ("medium", 180), ("long", math.inf))
        duration = next(name for name, limit in limits if self.length < limit)
        return (f"duration/{duration}", f"domain/{self.domain}")


def read(path: Path) -> list[Question]:
    """Reads `V_STaR_test.json`.

    Raises:
        InputError: the file or a record cannot be used.
    """
    return [_question(row) for row in read_rows(path)]


def _question(row: Row) -> Question:
    fps = row.number("fps")
    if fps <= 0:
        raise row.wrong("fps", "a number above 0")
    return Question(
        id=row.id(),
        video=f"{row.text('vid')}.mp4",
        domain=row.text("domain") if row.fields.get("domain") else "unknown",
        length=round(row.number("frame_count") / fps, 2),
        size=(row.number("width"), row.number("height")),
        what=row.text("question"),
        when=row.text("temporal_question"),
        where=(row.text("spatial_question"), row.text("spatial_question_2")),
        answer=row.text("answer"),
        span=Span(*row.span("timestamps")),
        boxes=tuple(_timed_box(row, box) for box in _listed(row, "bboxes")),
    )


def _listed(row: Row, key: str) -> list[Any]:
    return [] if row.fields.get(key) == [] else row.entries(key)


def _timed_box(row: Row, box: Any) -> TimedBox:
    try:
        if "timestamp" not in box:  # The form that the authors' README shows.
            ((name, box),) = box.items()
            second = name.split("_")[0]
        else:
            second = str(box["timestamp"])
        corners = tuple(box[side] for side in ("xmin", "ymin", "xmax", "ymax"))
        return TimedBox(second, tuple(corner + 0 for corner in corners))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "boxes with timestamp, xmin, ymin, xmax and ymax"
        raise row.wrong("bboxes", expected) from error
