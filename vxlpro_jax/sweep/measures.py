"""The numbers that a sweep compares, read from the files that the steps of a run write."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def of_stage1(report: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers in a `recot.json`."""
    return {
        "restore error": report["reconstruction"]["model"],
        "shuffle similarity": report["shuffle_similarity"],
        "direction probe": report["direction_probe"]["compressed"],
    }


def of_embedded(report: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers in the `results.json` of the synthetic questions."""
    return {"mean": float(np.mean(list(report["accuracy"].values()))), **report["accuracy"]}


def of_needles(report: Mapping[str, Any]) -> dict[str, float]:
    """Returns the mean over all lengths and depths in the `results.json` of a needle test.

    Sweeps started with an earlier version have the grid under another name.
    """
    grid = report["grid"] if "grid" in report else report["needle_grid"]
    return {"needles": float(np.mean([cell["accuracy"] for cell in grid]))}


OF_BENCHMARK = {"embedded": of_embedded, "needles": of_needles}
