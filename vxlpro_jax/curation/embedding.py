"""A clip as a short vector that survives coding anew, without a model.

Shapes: F frames, S side of a frame, D width of the vector.
"""

import itertools
import math

import numpy as np

# Coarse enough that what other sizes, rates and codecs change is left out.
_PARTS = 4
_WAVES = (8, 4, 4)  # Of light and of both colour differences, in each direction.
# Shares of the picture's own norm, and levels, below which something is noise.
_NOISE, _FLAT = 0.05, 1.0

# RGB to light and colour differences (BT.601).
_CHANNELS = np.array(
    [[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32
)

WIDTH = (1 + _PARTS) * (sum(waves**2 for waves in _WAVES) - 1)


def embed_clip(frames: np.ndarray) -> np.ndarray:
    """What the clip looks like on average, and how each quarter of it differs from that.

    Both halves weigh alike, so that two clips of one scene are alike only if they also move alike.
    Coordinates are coefficients of the cosine transforms of light and colour, high frequencies
    raised as natural pictures lower them, and mean light left out; brightness and contrast change
    nothing.

    Args:
        frames: uint8 [F,S,S,3], evenly spaced.

    Returns:
        float32 [D] of length 1, whose products are cosines; zeros for a flat gray one.
    """
    parts = np.stack([part.mean(axis=0) for part in _quarters(frames.astype(np.float32))])
    waves = _transform(parts @ _CHANNELS.T)
    mean = waves.mean(axis=0)
    norm = float(np.linalg.norm(mean))
    rest = (waves - mean).ravel()
    level = max(norm, _FLAT)
    joined = np.concatenate([mean / level, rest / max(float(np.linalg.norm(rest)), _NOISE * level)])
    length = float(np.linalg.norm(joined))
    return (joined / length if norm > _FLAT else 0 * joined).astype(np.float32)


def _quarters(pictures: np.ndarray) -> list[np.ndarray]:
    """Parts of like length; of fewer frames than parts some are in several."""
    count = len(pictures)
    edges = [part * count / _PARTS for part in range(_PARTS + 1)]
    return [
        pictures[min(int(start), count - 1) : max(math.ceil(end), int(start) + 1)]
        for start, end in itertools.pairwise(edges)
    ]


def _transform(pictures: np.ndarray) -> np.ndarray:
    """[n,S,S,3], a channel of `_WAVES` each, to the coefficients of all but mean light."""
    found = []
    for channel, waves in enumerate(_WAVES):
        basis = _basis(waves, side=pictures.shape[1])
        steps = np.arange(waves)
        weights = np.hypot(steps[:, None], steps)
        weights[0, 0] = 1.0
        coefficients = basis @ pictures[..., channel] @ basis.T * weights
        found.append(coefficients.reshape(len(pictures), -1))
    return np.concatenate(found, axis=1)[:, 1:]


def _basis(waves: int, *, side: int) -> np.ndarray:
    """The first cosines [waves, S], such that a coefficient is in levels."""
    places = np.arange(side) + 0.5
    return np.cos(np.pi / side * np.arange(waves)[:, None] * places) * math.sqrt(2) / side
