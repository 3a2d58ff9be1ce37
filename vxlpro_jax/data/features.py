"""Features of a frozen vision tower on disk, one file for each video or image.

Shapes: g groups of a file, P places of the grid, C width of the tower.
"""

import dataclasses
import hashlib
import os
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """A folder of arrays [g,4,P,C] of one type, `float32` or `bfloat16`."""

    folder: Path
    dtype: str

    def path(self, visual: Path) -> Path:
        """Where the features of `visual` are: another place as soon as that file changes."""
        stat = visual.stat()
        named = f"{visual}\0{stat.st_size}\0{stat.st_mtime_ns}"
        return self.folder / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.npy"

    def read(self, visual: Path) -> np.ndarray:
        """[g,4,P,C]."""
        stored = np.load(self.path(visual), allow_pickle=False)
        return stored.view(ml_dtypes.bfloat16) if self.dtype == "bfloat16" else stored

    def write(self, visual: Path, features: np.ndarray) -> None:
        """The inverse; processes may race."""
        stored = features.view(np.uint16) if self.dtype == "bfloat16" else features
        handle, partial = tempfile.mkstemp(suffix=".tmp", dir=self.folder)
        with os.fdopen(handle, "wb") as file:
            np.save(file, stored, allow_pickle=False)
        os.replace(partial, self.path(visual))
