"""The results of a sweep: a line per number, a row per variant, and a plot."""

import csv
import dataclasses
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vxlpro_jax.sweep.plan import Run
from vxlpro_jax.utils.files import write_atomically

Summary = dict[str, dict[str, list[float]]]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One measured number; `keep_ratio` is None if the selector does not affect it."""

    variant: str
    seed: int
    keep_ratio: float | None
    measure: str
    value: float


def collect(runs: Iterable[Run]) -> Iterator[Measurement]:
    """Collects the numbers that the runs have produced so far."""
    for run in runs:
        for step in run.steps:
            if step.measures and step.output.exists():
                values = step.measures(json.loads(step.output.read_text()))
                for measure, value in values.items():
                    yield Measurement(run.variant, run.seed, step.keep_ratio, measure, value)


def write_results(found: Sequence[Measurement], *, usual_ratio: float, workdir: Path) -> None:
    """Writes `results.csv` (a line per number), `results.md` (a row per variant) and a plot."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Measurement)])
    writer.writerows(dataclasses.astuple(number) for number in found)
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "results.csv", text.getvalue())
    summary = summarize(found, usual_ratio=usual_ratio)
    write_atomically(workdir / "results.md", table(summary))
    draw(summary, path=workdir / "results.png")


def summarize(found: Iterable[Measurement], *, usual_ratio: float) -> Summary:
    """Groups values of all seeds by variant (with its keep ratio, if unusual) and measure."""
    rows: Summary = defaultdict(lambda: defaultdict(list))
    for number in found:
        is_usual = number.keep_ratio in (None, usual_ratio)
        row = number.variant if is_usual else f"{number.variant}, keep {number.keep_ratio}"
        rows[row][number.measure].append(number.value)
    return rows


def table(summary: Summary) -> str:
    """Formats Markdown: a row per variant, with mean and standard deviation over its seeds."""
    measures = _measures(summary)
    lines = [f"| variant | seeds | {' | '.join(measures)} |", "| --- " * (2 + len(measures)) + "|"]
    for row, values in summary.items():
        cells = [_cell(values[measure]) if measure in values else "" for measure in measures]
        seeds = max(map(len, values.values()))
        lines.append(f"| {row} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _measures(summary: Summary) -> list[str]:
    return list(dict.fromkeys(measure for values in summary.values() for measure in values))


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def draw(summary: Summary, *, path: Path) -> None:
    """Draws a panel per measure, with a dot for every seed and a line at the mean."""
    from matplotlib.figure import Figure  # Imported late, because `--help` does not need it.

    measures, rows = _measures(summary), list(summary)
    size = (2.2 * len(measures) + 2, 0.35 * len(rows) + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, max(len(measures), 1), sharey=True, squeeze=False)[0]
    for panel, measure in zip(panels, measures, strict=False):
        for place, row in enumerate(rows):
            values = summary[row].get(measure, [])
            panel.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.6)
            if values:
                panel.plot(np.mean(values), place, "|", color="black", markersize=14)
        panel.set_title(measure)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=120)
