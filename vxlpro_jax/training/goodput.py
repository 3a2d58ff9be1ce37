"""Measures how the wall time of a run is spent."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from vxlpro_jax.utils.files import write_atomically

KINDS = ("start", "compile", "step", "data", "report", "checkpoint", "evaluation")
TRAINING = ("compile", "step", "data")


class WallTime:
    """Seconds by kind of activity; every moment since its creation counts as one kind.

    Devices compute while the host waits for data, so `data` is an upper bound of their idle time.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic):
        self.seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self._clock = clock
        self._since = clock()

    def lap(self, kind: str) -> float:
        """Adds the time since the last lap to one of `KINDS`, and returns it in seconds."""
        now = self._clock()
        spent, self._since = now - self._since, now
        self.seconds[kind] += spent
        return spent

    @property
    def training(self) -> float:
        """Seconds of the steps, including their compilation and the wait for data."""
        return sum(self.seconds[kind] for kind in TRAINING)

    @property
    def total(self) -> float:
        """Seconds from the creation to the last lap."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """Share of the wall time that steps took, in [0, 1]."""
        return self.seconds["step"] / max(self.total, 1e-9)

    def write(self, path: Path) -> None:
        """Writes JSON: `goodput`, and `seconds` by kind since this process started."""
        rounded = {kind: round(seconds, 3) for kind, seconds in self.seconds.items()}
        report = {"goodput": round(self.goodput, 4), "seconds": rounded}
        write_atomically(path, json.dumps(report, indent=2) + "\n")

    def __str__(self) -> str:
        """Formats one line for the console."""
        parts = ", ".join(
            f"{kind} {seconds:.0f} s" for kind, seconds in self.seconds.items() if seconds >= 0.5
        )
        return f"Of {self.total:.0f} s, {self.goodput:.0%} were steps ({parts})."
