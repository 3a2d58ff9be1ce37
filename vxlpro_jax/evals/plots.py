"""Plots of predicted and true time spans."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vxlpro_jax.evals.metrics import temporal_iou
from vxlpro_jax.utils.errors import InputError

MAX_ROWS = 60
_TRUE, _FOUND = "#9aa0a6", "#d1495b"


class SpanPair(NamedTuple):
    """The `name` of a question, its `truth` and the span `found` in the answer, in seconds.

    `found` is None if the answer has no span.
    """

    name: str
    truth: Sequence[float]
    found: Sequence[float] | None


def draw_spans(pairs: Sequence[SpanPair], *, path: Path) -> None:
    """Draws a PNG with one row for each of the first 60 questions: true span above found span.

    Raises:
        InputError: the file cannot be written.
    """
    shown = pairs[:MAX_ROWS]
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for row, pair in enumerate(shown):
        _draw_bar(axes, pair.truth, y=row - 0.2, colour=_TRUE)
        if pair.found is not None:
            _draw_bar(axes, pair.found, y=row + 0.2, colour=_FOUND)
    axes.set_yticks(range(len(shown)), [_label(pair) for pair in shown], fontsize=7)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("seconds")
    axes.set_title(f"{len(shown)} of {len(pairs)} questions, with the IoU", fontsize=9)
    named = [Patch(color=_TRUE, label="true"), Patch(color=_FOUND, label="predicted")]
    figure.legend(handles=named, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    partial = path.with_name(f"{path.name}.tmp")
    try:
        figure.savefig(partial, format="png", dpi=120)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"Picture {path} cannot be written ({error.strerror}).") from error


def _draw_bar(axes: Axes, span: Sequence[float], *, y: float, colour: str) -> None:
    start, end = min(span), max(span)
    axes.barh(y, end - start, left=start, height=0.36, color=colour)


def _label(pair: SpanPair) -> str:
    if pair.found is None:
        return f"{pair.name}  none"
    reversed_ = " (end first)" if pair.found[1] < pair.found[0] else ""
    return f"{pair.name}  {temporal_iou(pair.truth, pair.found):.2f}{reversed_}"
