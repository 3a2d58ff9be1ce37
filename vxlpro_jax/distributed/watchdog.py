"""Ends a process whose run makes no more progress, and names the process that blocks it.

Devices wait for a lost process forever, in calls that no exception interrupts. Therefore a thread
watches the run.
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

# A step is too slow after this many median step times. The first step, saves and evaluations may
# take this many timeouts.
_MAX_MEDIANS, _MAX_TIMEOUTS = 10, 10
_REMEMBERED_STEPS = 100


class Stalled(errors.Failure):
    """A step takes too long; the message names the step and the process that has not reached it."""

    code = 81


class Watchdog:
    """Watches the run within a `with` block.

    It ends this process with the exit code of `LostProcess` if another process is lost, and with
    that of `Stalled` if a step takes longer than both the timeout and ten median step times. The
    first step, saves and evaluations may take ten timeouts; work before them has no limit.
    """

    def __init__(self, group: ProcessGroup):
        self._group, self._heartbeat = group, Heartbeat(group)
        self._progress = StepProgress()
        self._steps: collections.deque[float] = collections.deque(maxlen=_REMEMBERED_STEPS)
        self._is_after_first = False
        self._began, self._limit = time.monotonic(), float("inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._heartbeat.publish(self._progress)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if error is None:
            self._heartbeat.publish(self._progress, state="ended")
            return
        lost = None
        if isinstance(error, Exception) and not isinstance(error, InputError | errors.Failure):
            lost = self._find_cause(error)
        self._publish_end("left" if lost or isinstance(error, LostProcess) else "failed")
        if lost:
            raise lost from error

    def reads(self, step: int) -> None:
        """Records that the step begins and waits for its data."""
        now = time.monotonic()
        if self._is_after_first:
            self._steps.append(now - self._began)
        self._is_after_first = self._progress.step > 0
        first_limit = _MAX_TIMEOUTS * self._group.timeout
        self._limit = self._step_limit() if self._is_after_first else first_limit
        self._progress, self._began = StepProgress(step), now

    def computes(self, step: int) -> None:
        """Records that the data of the step has arrived."""
        self._progress = StepProgress(step, has_data=True)

    def is_overdue(self) -> bool:
        """Returns whether the step takes too long."""
        return time.monotonic() - self._began > self._limit

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Allows more time within the block, for a save or an evaluation."""
        now, limit = time.monotonic(), self._limit
        self._limit = now - self._began + _MAX_TIMEOUTS * self._group.timeout
        yield
        self._began += time.monotonic() - now
        self._limit = limit

    def _find_cause(self, error: Exception) -> LostProcess | None:
        """Returns the lost process that caused the error, whose type differs between backends."""
        if self._group.count == 1:
            return None
        reason = (str(error).splitlines() or [""])[0]
        found = f"{type(error).__name__}: {reason}\nLooking for a lost process."
        print(found, file=sys.stderr, flush=True)
        return self._heartbeat.find_cause(self._progress)

    def _step_limit(self) -> float:
        """Time limit of a step in seconds."""
        usual = statistics.median(self._steps) if self._steps else 0.0
        return max(self._group.timeout, _MAX_MEDIANS * usual)

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(self._heartbeat.interval):
            asleep, looked = time.monotonic() - looked, time.monotonic()
            if asleep > 2 * self._heartbeat.interval:
                self._began += asleep  # The process was suspended on purpose.
            if self._group.count > 1:
                # This ends the process even if this thread is blocked, too.
                faulthandler.dump_traceback_later(self._group.timeout, exit=True)
            self._heartbeat.publish(self._progress)
            if lost := self._heartbeat.find_lost():
                self._end(lost)
            elif self.is_overdue():
                faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
                self._end(self._stalled())

    def _stalled(self) -> Stalled:
        progress = {index: x.progress for index, x in self._heartbeat.statuses.items()}
        behind = [
            f"{self._group.named([index])} is still {theirs}"
            for index, theirs in progress.items()
            if theirs < self._progress
        ]
        if behind:
            where = "; ".join(behind)
        elif any(theirs > self._progress for theirs in progress.values()):
            where = "the others wait for this process, whose stacks are above"
        else:
            where = "every process has reached the step; the stacks above show where this one is"
        seconds = time.monotonic() - self._began
        return Stalled(f"{self._progress}: no progress for {seconds:.0f} s: {where}.")

    def _end(self, failure: errors.Failure) -> None:
        code = cli.report_error(failure)
        self._publish_end("left")
        cli.exit_now(code)

    def _publish_end(self, state: str) -> None:
        self._heartbeat.publish(self._progress, state=state)
        if self._group.is_first:
            self._heartbeat.wait_for_readers()
