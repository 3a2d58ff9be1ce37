"""Reports a grid of replies: accuracies, a table, a CSV and a heat map."""

import csv
import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from vxlpro_jax.evals.needle.replies import NeedleReply

# The colours of Video-XL's heat map: accuracy 0, a half, 1.
_COLOURS = LinearSegmentedColormap.from_list("needle", ["#F0496E", "#EBB839", "#0CD79F"])


class CellScore(NamedTuple):
    """The accuracy, 0 to 1, for one keep ratio, length and depth.

    Attributes:
        keep_ratio: requested share of visual tokens.
        frames: length of the haystack in frames.
        depth: depth of the needles.
        kept: mean number of visual tokens that were kept.
        needles: number of needles that were asked for.
        accuracy: share of right replies.
    """

    keep_ratio: float
    frames: int
    depth: float
    kept: float
    needles: int
    accuracy: float


class Caption(NamedTuple):
    """The caption of a picture: the `model`, the `test`, and the accuracy of guessing.

    `chance` is None if guessing never succeeds, as when every token of an answer must be right.
    """

    model: str
    test: str
    chance: float | None


def cell_scores(replies: Iterable[NeedleReply]) -> list[CellScore]:
    """Averages over needles for each keep ratio, length and depth, sorted in this order."""
    places = defaultdict(list)
    for reply in replies:
        cell = reply.cell
        places[cell.keep_ratio, cell.frames, cell.depth].append((reply.kept, reply.right))
    return [
        CellScore(*at, kept=float(kept), needles=len(several), accuracy=float(accuracy))
        for at, several in sorted(places.items())
        for kept, accuracy in [np.mean(several, axis=0)]
    ]


def mean_accuracy(scores: Iterable[CellScore]) -> dict[str, float]:
    """Averages over lengths and depths for each keep ratio, which is the figure in papers."""
    return {
        f"{ratio:g}": float(np.mean([score.accuracy for score in several]))
        for ratio, several in _by_ratio(scores)
    }


def _by_ratio(scores: Iterable[CellScore]) -> list[tuple[float, list[CellScore]]]:
    grouped = itertools.groupby(scores, lambda score: score.keep_ratio)
    return [(ratio, list(several)) for ratio, several in grouped]


class _Grid(NamedTuple):
    """Arrays of depths (downwards) by lengths; NaN for cells that have not been asked yet."""

    lengths: list[int]
    depths: list[float]
    accuracy: np.ndarray
    kept: np.ndarray


def _grid(scores: Sequence[CellScore], *, axes_of: Sequence[CellScore]) -> _Grid:
    """Arranges the scores of one keep ratio by the lengths and depths of `axes_of`."""
    lengths = sorted({score.frames for score in axes_of})
    depths = sorted({score.depth for score in axes_of})
    accuracy, kept = (np.full((len(depths), len(lengths)), np.nan) for _ in range(2))
    for score in scores:
        at = depths.index(score.depth), lengths.index(score.frames)
        accuracy[at], kept[at] = score.accuracy, score.kept
    return _Grid(lengths, depths, accuracy, kept)


def to_markdown(scores: Sequence[CellScore]) -> str:
    """Formats a table for each keep ratio, with frames to the right and depth downwards."""
    return "\n".join(
        f"keep ratio {ratio:g}, mean {np.mean([score.accuracy for score in several]):.4f}\n\n"
        + _table(_grid(several, axes_of=several))
        for ratio, several in _by_ratio(scores)
    )


def _table(grid: _Grid) -> str:
    head = "| depth | " + " | ".join(f"{length} frames" for length in grid.lengths) + " |"
    rows = [
        f"| {depth:.0%} | " + " | ".join(f"{cell:.3f}" for cell in row) + " |"
        for depth, row in zip(grid.depths, grid.accuracy, strict=True)
    ]
    return "\n".join([head, "| --- " * (len(grid.lengths) + 1) + "|", *rows]) + "\n"


def to_csv(scores: Sequence[CellScore]) -> str:
    """Formats a CSV with a header and one line per score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CellScore._fields)
    writer.writerows(scores)
    return text.getvalue()


def draw(scores: Sequence[CellScore], *, caption: Caption, path: Path) -> None:
    """Draws a heat map as PNG: a panel for each keep ratio, frames to the right, depth downwards.

    Below each length is the number of visual tokens that were kept. The accuracy of guessing is
    marked on the colour bar.
    """
    panels = [(ratio, _grid(of, axes_of=scores)) for ratio, of in _by_ratio(scores)]
    depths, lengths = panels[0][1].accuracy.shape
    width, height = 2.5 + 0.6 * lengths, 0.4 + len(panels) * (1.2 + 0.45 * depths)
    figure = Figure(figsize=(max(width, 6.5), max(height, 3.4)), layout="constrained")
    rows = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (ratio, grid) in zip(rows, panels, strict=True):
        image = _draw_panel(axes, grid)
        axes.set_title(f"keep ratio {ratio:g}: mean {np.nanmean(grid.accuracy):.2%}", fontsize=10)
    figure.suptitle(_title(caption), fontsize=11)
    bar = figure.colorbar(image, ax=rows, label="accuracy")
    if caption.chance is not None:
        bar.ax.axhline(caption.chance, color="black", linewidth=1.5)
        bar.ax.text(-0.2, caption.chance, "chance", ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=120)


def _title(caption: Caption) -> str:
    chance = "" if caption.chance is None else f", chance {caption.chance:.0%}"
    return f"Needle in a haystack ({caption.test}), model {caption.model}{chance}"


def _draw_panel(axes: Axes, grid: _Grid) -> AxesImage:
    image = axes.imshow(grid.accuracy, cmap=_COLOURS, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(grid.lengths)), list(map(_column, grid.lengths, grid.kept.T)))
    axes.set_yticks(range(len(grid.depths)), [f"{depth:.0%}" for depth in grid.depths])
    axes.set(xlabel="frames, and visual tokens kept", ylabel="depth")
    for (row, column), cell in np.ndenumerate(grid.accuracy):
        if not np.isnan(cell):
            axes.text(column, row, f"{cell:.2f}", ha="center", va="center", fontsize=8)
    return image


def _column(frames: int, kept: np.ndarray) -> str:
    """Labels a length, with the number of tokens kept if any question has been asked."""
    asked = kept[~np.isnan(kept)]
    return f"{frames}\n{asked.mean():.0f}" if len(asked) else str(frames)
