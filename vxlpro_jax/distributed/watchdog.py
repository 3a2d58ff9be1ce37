"""Notices that a run no longer moves, says who holds it up, and ends this process.

Devices that wait for a process which is gone wait for ever, in calls that no exception reaches; so
a thread looks on.
"""

import collections
import contextlib
import faulthandler
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from vxlpro_jax.distributed.heartbeat import Heartbeat, StepProgress
from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.utils import cli, errors
from vxlpro_jax.utils.errors import InputError, LostProcess

# A step is too slow at so many usual ones; what is no usual step may take so many timeouts.
_SLOW, _PATIENCE = 10, 10
_REMEMBERED = 100


class Stalled(errors.Failure):
    """A sentence that tells which step takes too long, and who has not reached it."""

    code = 81


class Watchdog:
    """Looks on from the begin of a `with` block to its end.

    It ends this process with the code of `LostProcess` when another one is gone, and with that of
    `Stalled` when a step takes more than both the timeout and ten median steps. The first step,
    saves and evaluations may take ten timeouts, and all that comes before them any time.
    """

    def __init__(self, peers: ProcessGroup):
        self._peers, self._pulse = peers, Heartbeat(peers)
        self._progress = StepProgress()
        self._steps: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)
        self._is_usual = False  # whether the step that is now is not the first
        self._began, self._limit = time.monotonic(), float("inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._pulse.tell(self._progress)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if error is None:
            self._pulse.tell(self._progress, state="ended")
            return
        lost = None
        if isinstance(error, Exception) and not isinstance(error, InputError | errors.Failure):
            lost = self._explain(error)
        self._leave("left" if lost or isinstance(error, LostProcess) else "failed")
        if lost:
            raise lost from error

    def reads(self, step: int) -> None:
        """The step begins: its data is waited for."""
        now = time.monotonic()
        if self._is_usual:
            self._steps.append(now - self._began)
        self._is_usual = self._progress.step > 0
        self._limit = self._slowest() if self._is_usual else _PATIENCE * self._peers.timeout
        self._progress, self._began = StepProgress(step), now

    def computes(self, step: int) -> None:
        """The data of the step is there."""
        self._progress = StepProgress(step, has_data=True)

    def is_overdue(self) -> bool:
        """Whether the step takes too long."""
        return time.monotonic() - self._began > self._limit

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """For what is no step: a save, an evaluation."""
        now, limit = time.monotonic(), self._limit
        self._limit = now - self._began + _PATIENCE * self._peers.timeout
        yield
        self._began += time.monotonic() - now
        self._limit = limit

    def _explain(self, error: Exception) -> LostProcess | None:
        """The lost process that the error came of, which has a type for each backend."""
        if self._peers.count == 1:
            return None
        reason = (str(error).splitlines() or [""])[0]
        told = f"{type(error).__name__}: {reason}\nLooking whether another process is gone."
        print(told, file=sys.stderr, flush=True)
        return self._pulse.explain(self._progress)

    def _slowest(self) -> float:
        """Seconds that a step may take."""
        usual = statistics.median(self._steps) if self._steps else 0.0
        return max(self._peers.timeout, _SLOW * usual)

    def _look_on(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(self._pulse.every):
            asleep, looked = time.monotonic() - looked, time.monotonic()
            if asleep > 2 * self._pulse.every:
                self._began += asleep  # Whoever stops a process means to have it back.
            if self._peers.count > 1:
                # What holds up even this thread ends in time, too.
                faulthandler.dump_traceback_later(self._peers.timeout, exit=True)
            self._pulse.tell(self._progress)
            if lost := self._pulse.lost():
                self._end(lost)
            elif self.is_overdue():
                faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
                self._end(self._stalled())

    def _stalled(self) -> Stalled:
        progress = {index: sign.progress for index, sign in self._pulse.signs.items()}
        behind = [
            f"{self._peers.named([index])} is still {theirs}"
            for index, theirs in progress.items()
            if theirs < self._progress
        ]
        if behind:
            where = "; ".join(behind)
        elif any(theirs > self._progress for theirs in progress.values()):
            where = "the others wait for this process, whose stacks are above"
        else:
            where = "every process is there; the stacks above tell where this one is"
        seconds = time.monotonic() - self._began
        return Stalled(f"{self._progress} nothing moves since {seconds:.0f} s: {where}.")

    def _end(self, failure: errors.Failure) -> None:
        code = cli.report_error(failure)
        self._leave("left")
        cli.exit_now(code)

    def _leave(self, state: str) -> None:
        self._pulse.tell(self._progress, state=state)
        if self._peers.is_first:
            self._pulse.let_others_leave()
