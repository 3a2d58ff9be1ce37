"""Pictures of the report: dropped samples, and histograms of the measurements."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vxlpro_jax.curation.decisions import Findings
from vxlpro_jax.curation.limits import RULES, Limits, Rule
from vxlpro_jax.curation.samples import Clip
from vxlpro_jax.utils.errors import InputError

SHEET_FRAMES, SHEET_SIDE = 6, 96
_MOST_ROWS = 8
_COLUMNS, _MOST_LINES = 80, 7
_KEPT, _DROPPED = "#4e79a7", "#e15759"


class SheetRow(NamedTuple):
    """A row of a contact sheet.

    Attributes:
        clip: clip to show; None for a sample without one.
        words: text beside the clip.
    """

    clip: Clip | None
    words: str


def sheet_rows(findings: Findings, rule: Rule) -> list[SheetRow]:
    """Picks evenly spread samples that a rule dropped; duplicates come with their originals."""
    dropped = [i for i, v in enumerate(findings.rejections) if v is not None and v.rule == rule]
    most = _MOST_ROWS // 2 if rule == "duplicate" else _MOST_ROWS
    picks = np.linspace(0, len(dropped) - 1, min(most, len(dropped)), dtype=int)
    return [row for pick in picks for row in _rows(findings, dropped[pick])]


def _rows(findings: Findings, index: int) -> Iterator[SheetRow]:
    rejection, place = findings.rejections[index], findings.clip_index.of_sample[index]
    assert rejection is not None
    sample, clips = findings.samples[index], findings.clip_index.clips
    turns = "\n".join(f"{turn.role}: {turn.text}" for turn in sample.record.turns[:2])
    name = clips[place].name if place >= 0 else sample.id
    yield SheetRow(
        clips[place] if place >= 0 else None, f"{index}: {name}\n{rejection.reason}\n{turns}"
    )
    if rejection.like >= 0:
        yield SheetRow(clips[rejection.like], f"kept: {clips[rejection.like].name}")


def draw_sheet(
    rows: Sequence[SheetRow], *, title: str, read: Callable[[Clip], np.ndarray], path: Path
) -> None:
    """Writes a contact sheet with one clip per row.

    Args:
        rows: at least one row.
        title: title of the sheet.
        read: function that reads a clip's frames, uint8 [F,S,S,3] with S `SHEET_SIDE`; if it raises
            InputError, the row stays empty.
        path: path of the PNG.

    Raises:
        InputError: The file cannot be written.
    """
    side, gap = SHEET_SIDE, 8
    sheet = np.full((len(rows) * (side + gap), SHEET_FRAMES * (side + gap), 3), 255, np.uint8)
    figure = Figure(figsize=(11, 0.5 + len(rows)), facecolor="white")
    axes = figure.add_axes((0.01, 0, 0.55, 1 - 0.4 / (0.5 + len(rows))), anchor="NW")
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=10)
    for number, row in enumerate(rows):
        top = number * (side + gap)
        for place, frame in enumerate(_frames(row, read)):
            left = place * (side + gap)
            sheet[top : top + side, left : left + side] = frame
        axes.text(sheet.shape[1], top, _words(row), va="top", fontsize=7, parse_math=False)
    axes.imshow(sheet)
    _save(figure, path)


def _frames(row: SheetRow, read: Callable[[Clip], np.ndarray]) -> Sequence[np.ndarray]:
    try:
        return [] if row.clip is None else list(read(row.clip))[:SHEET_FRAMES]
    except InputError:
        return []


def _words(row: SheetRow) -> str:
    """Returns the text of a row in a few short lines, limited to letters of the shipped font."""
    text = "".join(c if c == "\n" or _is_drawn(c) else "□" for c in row.words)
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, _COLUMNS)]
    return "\n".join(lines[:_MOST_LINES])


def _is_drawn(character: str) -> bool:
    return character.isprintable() and ord(character) < 0x250


class _Chart(NamedTuple):
    rule: Rule
    label: str
    limit: float


def draw_histograms(findings: Findings, *, limits: Limits, path: Path) -> None:
    """Writes histograms of the measurements; samples dropped by a chart's rule are coloured.

    Raises:
        InputError: The file cannot be written.
    """
    charts = (
        _Chart("short", "seconds", limits.min_seconds),
        _Chart("static", "share of still frames, one picture", limits.static),
        _Chart("slides", "share of still frames, several pictures", limits.slides),
        _Chart("duplicate", "cosine with the nearest earlier clip", limits.similarity),
        _Chart("blind", "decrease of the loss by the video, nats per token", limits.margin),
    )
    values = _values(findings)
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, chart in zip(figure.subplots(2, 3).flat, charts, strict=False):
        _draw_chart(axes, chart, values[chart.rule])
    axes = figure.axes[-1]
    counts = [sum(v is not None and v.rule == rule for v in findings.rejections) for rule in RULES]
    axes.barh(RULES[::-1], counts[::-1], color=_DROPPED)
    axes.set(xlabel="samples dropped by each rule")
    _save(figure, path)


def _draw_chart(axes, chart: _Chart, values: list[tuple[float, bool]]) -> None:
    axes.set(xlabel=chart.label, ylabel="samples", title=chart.rule)
    if not values:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    found = np.array([value for value, _ in values])
    is_dropped = np.array([dropped for _, dropped in values])
    axes.hist(
        [found[~is_dropped], found[is_dropped]],
        bins=40,
        stacked=True,
        color=[_KEPT, _DROPPED],
        label=["others", "dropped by this rule"],
    )
    axes.axvline(chart.limit, color="black", linestyle="--", label=f"limit {chart.limit:g}")
    axes.set_yscale("symlog")
    axes.legend(fontsize=7)


def _values(findings: Findings) -> dict[Rule, list[tuple[float, bool]]]:
    """Returns, for each rule's chart, each sample's value and whether the rule dropped it."""
    values: dict[Rule, list[tuple[float, bool]]] = {rule: [] for rule in RULES}
    for index, rejection in enumerate(findings.rejections):
        for rule, value in _numbers(findings, index):
            values[rule].append((value, rejection is not None and rejection.rule == rule))
    return values


def _numbers(findings: Findings, index: int) -> Iterator[tuple[Rule, float]]:
    place = findings.clip_index.of_sample[index]
    measured = findings.measured.get(place)
    if measured is not None and measured.motion is not None:
        motion = measured.motion
        yield "short", motion.seconds
        yield ("slides" if motion.slides > 1 else "static"), motion.still
    if place >= 0 and findings.nearest[place][0] >= 0:
        yield "duplicate", findings.nearest[place][1]
    losses = findings.losses.get(index)
    if losses is not None and losses.blind is not None and losses.seen is not None:
        yield "blind", losses.blind - losses.seen


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(f"{path.name}.tmp")
    try:
        figure.savefig(partial, format="png", dpi=120)
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"Picture {path} cannot be written ({error.strerror}): give another --out."
        ) from error
