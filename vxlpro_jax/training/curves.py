"""Draws the curves of a run from its `metrics.jsonl` and `evaluations.jsonl`."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_PANELS = ("loss", "grad_norm", "lr")
_LOGARITHMIC = ("loss", "grad_norm", "token_error")
_SMOOTHED = ("loss", "grad_norm", "token_error")
# ReCoT's error of hidden tokens, in `metrics.jsonl` and on held-out clips.
_TRAINING_ERROR, _HELD_OUT_ERROR = "token_error", "own_mask"


def draw_curves(workdir: Path) -> None:
    """Plots loss, gradient norm and learning rate over steps to `curves.png`.

    For a run with evaluations, also plots the error of hidden tokens in training and on held-out
    clips.
    """
    rows, evaluations = _read(workdir / "metrics.jsonl"), _read(workdir / "evaluations.jsonl")
    panels = [*_PANELS, *([_TRAINING_ERROR] if evaluations else [])]
    figure = Figure(figsize=(4 * len(panels), 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _draw(axes, rows, name=name)
        if name == _TRAINING_ERROR:
            steps = [found["step"] for found in evaluations]
            errors = [found[_HELD_OUT_ERROR] for found in evaluations]
            axes.plot(steps, errors, "o-", color="C1", label="held out")
            axes.legend()
    partial = workdir / "curves.png.tmp"
    figure.savefig(partial, dpi=120, format="png")
    os.replace(partial, workdir / "curves.png")


def smooth(values: np.ndarray, *, window: float) -> np.ndarray:
    """Averages exponentially, without initial bias, over about `window` values, float64 [N]."""
    decay, total, weight = 1 - 1 / max(window, 1.0), 0.0, 0.0
    smoothed = np.empty(len(values))
    for index, value in enumerate(values):
        total = decay * total + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        smoothed[index] = total / weight
    return smoothed


def _draw(axes: Axes, rows: list[dict[str, Any]], *, name: str) -> None:
    """Plots a metric: its raw values pale, and smoothed over a twentieth of the run."""
    found = [row for row in rows if _is_finite(row.get(name))]
    steps = np.array([row["step"] for row in found])
    values = np.array([row[name] for row in found], float)
    if name in _SMOOTHED and len(found) > 2:
        axes.plot(steps, values, color="C0", alpha=0.3, linewidth=0.8)
        axes.plot(steps, smooth(values, window=len(found) / 20), color="C0", label="training")
    else:
        axes.plot(steps, values, color="C0")
    if name in _LOGARITHMIC and len(found) and values.min() > 0:
        axes.set_yscale("log")
    axes.set(title=name, xlabel="step")
    axes.grid(visible=True, alpha=0.3)


def _is_finite(value: float | None) -> bool:
    """Returns False if a metric is missing, or null because its step was skipped."""
    return value is not None and math.isfinite(value)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
