"""What a grid of replies shows: accuracies, a table, and a heat map."""

import csv
import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from vxlpro_jax.evals.embedded import needle_table
from vxlpro_jax.evals.needle.replies import Reply

# Of Video-XL's heat map: 0, a half, 1.
_COLOURS = LinearSegmentedColormap.from_list("needle", ["#F0496E", "#EBB839", "#0CD79F"])


class Score(NamedTuple):
    """Accuracy, 0 to 1, of `needles` needles in one place, and the mean of visual tokens `kept`."""

    keep_ratio: float
    frames: int
    depth: float
    kept: float
    needles: int
    accuracy: float


def scores(replies: Iterable[Reply]) -> list[Score]:
    """The mean over needles of every keep ratio, length and depth, in this order."""
    places = defaultdict(list)
    for reply in replies:
        cell = reply.cell
        places[cell.keep_ratio, cell.frames, cell.depth].append((reply.kept, reply.right))
    return [
        Score(*at, kept=float(kept), needles=len(of), accuracy=float(accuracy))
        for at, of in sorted(places.items())
        for kept, accuracy in [np.mean(of, axis=0)]
    ]


def mean_accuracy(found: Iterable[Score]) -> dict[str, float]:
    """The published figure, the mean over lengths and depths, by keep ratio."""
    return {f"{ratio:g}": float(np.mean([s.accuracy for s in of])) for ratio, of in _panels(found)}


def _panels(found: Iterable[Score]) -> list[tuple[float, list[Score]]]:
    return [(ratio, list(of)) for ratio, of in itertools.groupby(found, lambda s: s.keep_ratio)]


def table(found: Iterable[Score]) -> str:
    """Markdown: for each keep ratio frames to the right, depth downwards."""
    parts = [
        f"keep ratio {ratio:g}, mean {np.mean([s.accuracy for s in of]):.4f}\n\n"
        + needle_table([s._asdict() for s in of])
        for ratio, of in _panels(found)
    ]
    return "\n".join(parts)


def to_csv(found: Sequence[Score]) -> str:
    """A line for each score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Score._fields)
    writer.writerows(found)
    return text.getvalue()


def draw(found: Sequence[Score], *, title: str, path: Path) -> None:
    """A heat map PNG: a panel for each keep ratio, frames to the right, depth downwards.

    Under each length stand the visual tokens kept of it.
    """
    panels = _panels(found)
    lengths, depths = (sorted({getattr(s, axis) for s in found}) for axis in ("frames", "depth"))
    size = (2.5 + 0.6 * len(lengths), len(panels) * (1.2 + 0.45 * len(depths)))
    figure = Figure(figsize=(max(size[0], 6), max(size[1], 3)), layout="constrained")
    rows = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (ratio, of) in zip(rows, panels, strict=True):
        cells, kept = (np.full((len(depths), len(lengths)), np.nan) for _ in range(2))
        for score in of:
            at = depths.index(score.depth), lengths.index(score.frames)
            cells[at], kept[at] = score.accuracy, score.kept
        image = axes.imshow(cells, cmap=_COLOURS, vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(lengths)), map(_column, lengths, kept.T))
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        axes.set(xlabel="frames, and visual tokens kept of them", ylabel="depth")
        axes.set_title(f"{title}, keep ratio {ratio:g}: mean {np.nanmean(cells):.2%}")
        for (row, column), cell in np.ndenumerate(cells):
            if np.isnan(cell):  # Not asked yet.
                continue
            axes.text(column, row, f"{cell:.2f}", ha="center", va="center", fontsize=8)
    figure.colorbar(image, ax=rows, label="accuracy")
    figure.savefig(path, dpi=120)


def _column(frames: int, kept: np.ndarray) -> str:
    """A length and, where something was asked, the tokens kept of it."""
    asked = kept[~np.isnan(kept)]
    return f"{frames}\n{asked.mean():.0f}" if len(asked) else str(frames)
