"""Embeds a clip as a short vector that is robust to re-encoding, without a model.

Shapes: F frames, S side of a frame, D width of the vector.
"""

import itertools
import math

import numpy as np

# Coarse enough to ignore changes of size, frame rate or codec.
_PARTS = 4
_WAVES = (8, 4, 4)  # Cosines in each direction, for luma and both chroma channels.
# Changes below this share of the picture's norm, and norms below this level, count as noise.
_NOISE, _FLAT = 0.05, 1.0

# RGB to luma and chroma (BT.601).
_CHANNELS = np.array(
    [[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32
)

WIDTH = (1 + _PARTS) * (sum(waves**2 for waves in _WAVES) - 1)


def embed_clip(frames: np.ndarray) -> np.ndarray:
    """Embeds the mean picture of a clip, and the differences of each quarter of the clip from it.

    Both halves have the same weight, so that two clips of one scene are similar only if they also
    move alike. Coordinates are coefficients of the discrete cosine transform of luma and chroma,
    with high frequencies amplified by as much as natural pictures attenuate them. Mean luma is left
    out and the vector is normalized, so that brightness and contrast change nothing.

    Args:
        frames: uint8 [F,S,S,3], evenly spaced.

    Returns:
        float32 [D] of length 1, so that products are cosines; zeros for a flat gray clip.
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
    """Splits into parts of similar length; if there are few frames, parts share them."""
    count = len(pictures)
    edges = [part * count / _PARTS for part in range(_PARTS + 1)]
    return [
        pictures[min(int(start), count - 1) : max(math.ceil(end), int(start) + 1)]
        for start, end in itertools.pairwise(edges)
    ]


def _transform(pictures: np.ndarray) -> np.ndarray:
    """Computes DCT coefficients of pictures [n,S,S,3], `_WAVES` per channel, without mean luma."""
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
    """Returns the first cosines [waves, S], scaled so that coefficients are in picture levels."""
    places = np.arange(side) + 0.5
    return np.cos(np.pi / side * np.arange(waves)[:, None] * places) * math.sqrt(2) / side
