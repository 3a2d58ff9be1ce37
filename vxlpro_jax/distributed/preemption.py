"""Preemption: a cluster sends SIGTERM before it takes a machine away."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from jax.experimental import multihost_utils

from vxlpro_jax.distributed.process_group import ProcessGroup

# The exit code of a run that saved a checkpoint and should be started again.
PREEMPTED = os.EX_TEMPFAIL


class Preemption:
    """Listens for SIGTERM within a `with` block, and restores the previous handler afterwards."""

    def __init__(self, group: ProcessGroup):
        self._group = group
        self._noticed = False
        self._before = None
        self._asked = 0

    def __enter__(self) -> Self:
        # With several processes JAX installs the handlers. Signals reach only the main thread.
        is_main = threading.current_thread() is threading.main_thread()
        if self._group.count == 1 and is_main:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self, step: int) -> bool:
        """Returns whether the run should end after this step; all processes agree on the step.

        Every process must call this at every step.
        """
        if self._group.count > 1:
            # The processes agree on the step after the last one that any of them has asked about,
            # or on step 1, and JAX reports it only at that step. Therefore no step may be skipped,
            # including those of the run that this one resumes.
            asked = range(self._asked + 1, step + 1)
            self._asked = step
            return any(map(multihost_utils.reached_preemption_sync_point, asked))
        return self._noticed

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True
