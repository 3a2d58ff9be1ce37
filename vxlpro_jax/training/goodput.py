"""Where a run's wall time goes."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from vxlpro_jax.utils.files import write_atomically

KINDS = ("start", "compile", "step", "data", "report", "checkpoint", "evaluation")
TRAINING = ("compile", "step", "data")


class WallTime:
    """Seconds by kind; every moment since it was made belongs to one.

    Devices compute while the host waits for data, so `data` bounds what they may have waited.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic):
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._clock = clock
        self._since = clock()

    def lap(self, kind: str) -> float:
        """Counts the time since the last lap as one of `KINDS`, and returns it in seconds."""
        now = self._clock()
        spent, self._since = now - self._since, now
        self.seconds[kind] += spent
        return spent

    @property
    def training(self) -> float:
        """Seconds of the steps, with their compilation and their waiting for data."""
        return sum(self.seconds[kind] for kind in TRAINING)

    @property
    def goodput(self) -> float:
        """The share of all time that steps took, in [0, 1]."""
        return self.seconds["step"] / max(sum(self.seconds.values()), 1e-9)

    def write(self, path: Path) -> None:
        """JSON: `goodput`, and `seconds` by kind, of this process since it started."""
        rounded = {kind: round(seconds, 3) for kind, seconds in self.seconds.items()}
        report = {"goodput": round(self.goodput, 4), "seconds": rounded}
        write_atomically(path, json.dumps(report, indent=2) + "\n")

    def __str__(self) -> str:
        """One line for people."""
        total = sum(self.seconds.values())
        parts = ", ".join(
            f"{kind} {seconds:.0f} s" for kind, seconds in self.seconds.items() if seconds >= 0.5
        )
        return f"Of {total:.0f} s, {self.goodput:.0%} were steps ({parts})."
