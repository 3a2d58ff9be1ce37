"""Fuzzing of every parser with damaged and odd inputs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))
