"""SIGTERM, by which a cluster says that it takes the machine away: save and come back later."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from jax.experimental import multihost_utils

from vxlpro_jax.distributed.process_group import ProcessGroup

# The exit code of a run that is saved and says: start me again.
PREEMPTED = os.EX_TEMPFAIL


class Preemption:
    """Listens for SIGTERM from the begin of a `with` block to its end, where the handler before it
    is put back.
    """

    def __init__(self, peers: ProcessGroup):
        self._peers = peers
        self._noticed = False
        self._before = None
        self._asked = 0

    def __enter__(self) -> Self:
        # Of several processes JAX has the handlers. Signals reach the main thread only.
        is_main = threading.current_thread() is threading.main_thread()
        if self._peers.count == 1 and is_main:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def reached(self, step: int) -> bool:
        """Whether the run ends after this step; true in every process at the same step.

        Every process has to ask at every step.
        """
        if self._peers.count > 1:
            # JAX agrees on the step after the last that any process has asked about, 1 if none has
            # yet, and tells of it at that very step: none may be left out, nor those of the run
            # that this one continues.
            asked = range(self._asked + 1, step + 1)
            self._asked = step
            return any(map(multihost_utils.reached_preemption_sync_point, asked))
        return self._noticed

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True
