"""Features of a frozen vision tower on disk, one file for each video or image.

Shapes: g groups of a file, P places of the grid, C width of the tower, S side of a frame.
"""

import dataclasses
import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from vxlpro_jax.config import FRAMES_PER_GROUP


class Visual(NamedTuple):
    """What a video or image shows.

    groups: frames, uint8 [g,4,S,S,3], or the tower's features of them, [g,4,P,C].
    times: float64 [g], seconds of each group's first frame.
    """

    groups: np.ndarray
    times: np.ndarray


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """A folder of features, `places` (P) by `width` (C), of one type, `float32` or `bfloat16`."""

    folder: Path
    dtype: str
    places: int
    width: int

    def path(self, key: str) -> Path:
        """Where the features are of what `SampleReader.visual_key` calls `key`."""
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"

    def read(self, key: str) -> Visual:
        """The features of `key`."""
        with np.load(self.path(key), allow_pickle=False) as stored:
            groups, times = stored["groups"], stored["times"]
        is_bfloat16 = self.dtype == "bfloat16"
        return Visual(groups.view(ml_dtypes.bfloat16) if is_bfloat16 else groups, times)

    def write(self, key: str, visual: Visual) -> None:
        """The inverse; processes may race."""
        groups = visual.groups.view(np.uint16) if self.dtype == "bfloat16" else visual.groups
        handle, partial = tempfile.mkstemp(suffix=".tmp", dir=self.folder)
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, groups=groups, times=visual.times)
        os.replace(partial, self.path(key))

    def nothing(self) -> Visual:
        """The features of a sample without a file."""
        shape = (0, FRAMES_PER_GROUP, self.places, self.width)
        return Visual(np.zeros(shape, np.dtype(self.dtype)), np.zeros(0))
