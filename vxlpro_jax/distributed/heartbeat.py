"""Heartbeats: each process publishes its state, and detects processes that have fallen silent."""

import contextlib
import itertools
import time
from typing import NamedTuple, Self

import jax

from vxlpro_jax.distributed.process_group import ProcessGroup, read_folder
from vxlpro_jax.utils.errors import LostProcess

_FOLDER = "vxlpro/alive/"
# Fractions of the timeout: the time between two heartbeats, and the silence after which a process
# counts as lost.
_INTERVAL, _SILENCE = 1 / 40, 1 / 2


class StepProgress(NamedTuple):
    """The progress of a process in training.

    Attributes:
        step: number of the step.
        has_data: whether the process has read the data of the step.
    """

    step: int = 0
    has_data: bool = False

    def __str__(self) -> str:
        return f"{'in' if self.has_data else 'waiting for the data of'} step {self.step}"


class ProcessStatus(NamedTuple):
    """The last heartbeat of a process.

    Attributes:
        state: "alive"; or "ended" without an error, "failed" by an error of its own, or "left"
            because another process was lost.
        beat: number of the heartbeat, which increases while the process lives.
        progress: current step of the process.
    """

    state: str = "alive"
    beat: int = 0
    progress: StepProgress = StepProgress()

    def __str__(self) -> str:
        return f"{self.state} {self.beat} {self.progress.step} {int(self.progress.has_data)}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parses the result of `str`."""
        state, beat, step, has_data = text.split()
        return cls(state, int(beat), StepProgress(int(step), has_data == "1"))


class Heartbeat:
    """Publishes this process's heartbeats and follows those of the others.

    It does nothing if this is the only process of the run.

    Attributes:
        interval: seconds between two heartbeats.
        statuses: the last heartbeat of each other process.
    """

    def __init__(self, group: ProcessGroup):
        self.interval = _INTERVAL * group.timeout
        others = [index for index in range(group.count) if index != group.index]
        self.statuses = dict.fromkeys(others, ProcessStatus())
        self._group = group
        self._silence = _SILENCE * group.timeout
        self._beats = itertools.count(1)
        self._heard = dict.fromkeys(others, time.monotonic())

    def publish(self, progress: StepProgress, *, state: str = "alive") -> None:
        """Publishes a heartbeat. If process 0 is gone, nobody receives it."""
        if self._group.store is None:
            return
        status = ProcessStatus(state, next(self._beats), progress)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._group.store.key_value_set(f"{_FOLDER}{self._group.index}", str(status), True)

    def find_lost(self) -> LostProcess | None:
        """Reads the other heartbeats; returns an error that names lost processes, or None."""
        if self._group.store is None:
            return None
        try:
            texts = read_folder(self._group.store, _FOLDER)
        except jax.errors.JaxRuntimeError:  # Process 0, which stores them, does not answer.
            is_gone = not self._group.is_first and self._is_silent(0)
            return self._lost([0]) if is_gone else None
        for index, text in texts.items():
            status = ProcessStatus.from_text(text)
            if index in self.statuses and self.statuses[index] != status:
                self.statuses[index], self._heard[index] = status, time.monotonic()
        failed = [index for index, status in self.statuses.items() if status.state == "failed"]
        if failed:
            return LostProcess(f"{self._group.named(failed)} has failed: see its own log.")
        silent = [index for index in self._alive() if self._is_silent(index)]
        return self._lost(silent) if silent else None

    def find_cause(self, progress: StepProgress) -> LostProcess | None:
        """Checks whether a lost process caused an error in a computation.

        Waits until a process is lost, or until each other process has sent two more heartbeats.
        """
        lost, before = self.find_lost(), dict(self.statuses)
        while lost is None and any(
            self.statuses[index].beat < before[index].beat + 2 for index in self._alive()
        ):
            time.sleep(self.interval / 2)
            self.publish(progress)
            lost = self.find_lost()
        return lost

    def wait_for_readers(self) -> None:
        """Waits two intervals, so that the others can still read from process 0 why it ended."""
        deadline = time.monotonic() + 2 * self.interval
        while time.monotonic() < deadline:
            self.find_lost()
            if all(self._is_silent(index) for index in self._alive()):
                break
            time.sleep(self.interval / 10)

    def _lost(self, indices: list[int]) -> LostProcess:
        names, seconds = self._group.named(indices), f"{self._silence:.0f} s"
        return LostProcess(f"{names} is gone: no heartbeat for {seconds}.")

    def _alive(self) -> list[int]:
        return [index for index, status in self.statuses.items() if status.state == "alive"]

    def _is_silent(self, index: int) -> bool:
        return time.monotonic() - self._heard[index] > self._silence
