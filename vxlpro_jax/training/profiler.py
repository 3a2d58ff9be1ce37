"""Profiles a window of training steps."""

from pathlib import Path
from typing import Any

import jax

from vxlpro_jax.utils.errors import InputError


class Profiler:
    """Traces `count` steps, beginning with `first`, into `folder`, for TensorBoard or Perfetto."""

    def __init__(self, folder: Path, *, first: int, count: int):
        self._folder = folder
        self._first, self._last = first, first + count - 1

    @classmethod
    def from_flag(cls, window: str, *, folder: Path) -> "Profiler":
        """Parses `FIRST:COUNT`; an empty window traces nothing.

        Raises:
            InputError: the window has another form.
        """
        first, _, count = (window or "0:0").partition(":")
        if not (first.isdigit() and count.isdigit()):
            raise InputError(f"--profile={window}: give FIRST:COUNT, the steps 10:3 for example.")
        return cls(folder, first=int(first), count=int(count))

    def before(self, step: int) -> None:
        """Starts the trace at the first step."""
        if step == self._first <= self._last:
            jax.profiler.start_trace(str(self._folder))

    def after(self, step: int, results: Any) -> None:
        """Stops the trace at the last step, once `results` are computed."""
        if step == self._last >= self._first > 0:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            print(f"Profile of steps {self._first} to {self._last} in {self._folder}.")
