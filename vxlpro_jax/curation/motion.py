"""Measures how much a clip moves and how often it is cut.

Shapes: F frames, taken at `FPS`, S side of a frame.
"""

from typing import NamedTuple

import numpy as np

from vxlpro_jax.data.video.sampling import Video

# Slow enough to show motion between two frames, fast enough that a slide spans several frames.
FPS = 2.0
# Fine enough that a speaking face changes a few pixels, coarse enough to hide coding noise.
SIDE = 32

# Levels of 255. Coding noise changes a pixel by one or two.
_STILL = 4.0
_OTHER_PICTURE = 8.0
_CUT = 20.0
# Frames with a smaller correlation belong to different shots; a moving camera stays above it.
_SAME_SHOT = 0.3
# Share of a frame's pixels whose change is ignored as noise at edges.
_NOISE = 0.01

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Motion(NamedTuple):
    """Motion of a clip.

    Attributes:
        seconds: length of the clip, to half a second.
        change: mean change of a pixel from frame to frame, in levels of 255.
        still: share of pairs of frames without motion between them; 1 for a single frame.
        slides: number of consecutive still pictures, each different from the previous one.
        shots: number of hard cuts plus one.
    """

    seconds: float
    change: float
    still: float
    slides: int
    shots: int


def gray(frames: np.ndarray) -> np.ndarray:
    """Converts uint8 [F,S,S,3] to luma float32 [F,S,S], 0 to 255."""
    return frames.astype(np.float32) @ _LUMA


def measure_motion(video: Video) -> Motion:
    """Measures a video that was read at `FPS` frames per second and `SIDE` pixels per side."""
    pictures = gray(video.frames)
    moved = np.abs(np.diff(pictures, axis=0)).reshape(len(pictures) - 1, pictures[0].size)
    change = moved.mean(axis=1)
    still = _all_but(moved, share=_NOISE) < _STILL
    return Motion(
        seconds=_seconds(video.times),
        change=float(change.mean()) if len(change) else 0.0,
        still=float(still.mean()) if len(still) else 1.0,
        slides=_count_slides(pictures, still),
        shots=1 + int(((change > _CUT) & (_correlations(pictures) < _SAME_SHOT)).sum()),
    )


def _seconds(times: np.ndarray) -> float:
    """Returns the length of the clip; its last frame gets the average duration of the others."""
    count = len(times)
    return float(times[-1]) * count / (count - 1) if count > 1 else 1 / FPS


def _correlations(pictures: np.ndarray) -> np.ndarray:
    """Computes the correlation of each frame with the next, [F-1]; 0 for a flat frame."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1)
    return (flat[1:] * flat[:-1]).sum(axis=1) / np.maximum(norms[1:] * norms[:-1], 1e-6)


def _all_but(moved: np.ndarray, *, share: float) -> np.ndarray:
    """Returns the largest change per pair of frames, ignoring the given share of the pixels."""
    place = moved.shape[1] - 1 - int(share * moved.shape[1])
    return np.partition(moved, place, axis=1)[:, place]


def _count_slides(pictures: np.ndarray, still: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(still.astype(np.int8), prepend=0, append=0))
    middles = [pictures[(start + end) // 2] for start, end in edges.reshape(-1, 2)]
    if not middles:
        return 0
    shown, count = middles[0], 1
    for picture in middles[1:]:
        if np.abs(picture - shown).mean() > _OTHER_PICTURE:
            shown, count = picture, count + 1
    return count
