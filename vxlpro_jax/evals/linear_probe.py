"""Linear read-outs, fitted by ridge regression in closed form.

Shapes: `N` samples, `D` features, `K` outputs or classes.
"""

from typing import NamedTuple

import numpy as np

# Relative to the features' mean variance: enough to make the equations solvable, yet negligible.
_PENALTY = 1e-2


class ReadOut(NamedTuple):
    """Attributes: `weights` [D, K], `mean` [D] of the features, `offset` [K]."""

    weights: np.ndarray
    mean: np.ndarray
    offset: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Applies the read-out: [N, D] -> [N, K]."""
        return (features - self.mean) @ self.weights + self.offset


def fit(features: np.ndarray, outputs: np.ndarray) -> ReadOut:
    """Fits least squares with a small penalty, solving for D or N unknowns, whichever are fewer.

    Args:
        features: [N, D].
        outputs: [N, K].
    """
    x, y = np.asarray(features, np.float64), np.asarray(outputs, np.float64)
    mean, offset = x.mean(0), y.mean(0)
    x, y = x - mean, y - offset
    samples, width = x.shape
    penalty = _PENALTY * max(np.square(x).mean(), np.finfo(np.float64).tiny) * samples
    if width <= samples:
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(width), x.T @ y)
    else:
        weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(samples), y)
    return ReadOut(weights, mean, offset)


def accuracy(
    features: np.ndarray, *, labels: np.ndarray, num_train: int, num_classes: int
) -> float:
    """Fits a classifier on the first `num_train` samples; returns its accuracy on the others.

    Args:
        features: [N, D].
        labels: int [N].
        num_train: number of samples for fitting.
        num_classes: number of classes K.
    """
    one_hot = np.eye(num_classes)[labels]
    read_out = fit(features[:num_train], one_hot[:num_train])
    guesses = read_out(np.asarray(features[num_train:], np.float64)).argmax(-1)
    return float((guesses == labels[num_train:]).mean())
