"""Damaged and odd inputs for every parser."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))
