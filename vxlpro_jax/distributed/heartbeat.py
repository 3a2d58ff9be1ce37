"""Signs of life: what each process tells the others of itself, and who has fallen silent."""

import contextlib
import itertools
import time
from typing import NamedTuple, Self

import jax

from vxlpro_jax.distributed.process_group import ProcessGroup, read_folder
from vxlpro_jax.utils.errors import LostProcess

_FOLDER = "vxlpro/alive/"
# Shares of the timeout: how often a process is heard, and the silence after which it is gone.
_BEAT, _SILENCE = 1 / 40, 1 / 2


class StepProgress(NamedTuple):
    """How far a process is. Attributes: `step`; `has_data`, whether it has read the step's data."""

    step: int = 0
    has_data: bool = False

    def __str__(self) -> str:
        return f"{'in' if self.has_data else 'waiting for the data of'} step {self.step}"


class ProcessStatus(NamedTuple):
    """What a process last told.

    Attributes: `state`, "alive" until it has "ended" well, "failed" by itself, or "left" because
    another process is lost; `beat`, which grows as long as it lives; `progress`.
    """

    state: str = "alive"
    beat: int = 0
    progress: StepProgress = StepProgress()

    def __str__(self) -> str:
        return f"{self.state} {self.beat} {self.progress.step} {int(self.progress.has_data)}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The inverse of `str`."""
        state, beat, step, has_data = text.split()
        return cls(state, int(beat), StepProgress(int(step), has_data == "1"))


class Heartbeat:
    """Signs of this process, and when those of the others last came. Alone it does nothing.

    Attributes:
        every: seconds between two signs.
        signs: the last one of each other process.
    """

    def __init__(self, peers: ProcessGroup):
        self.every = _BEAT * peers.timeout
        others = [index for index in range(peers.count) if index != peers.index]
        self.signs = dict.fromkeys(others, ProcessStatus())
        self._peers = peers
        self._silence = _SILENCE * peers.timeout
        self._beats = itertools.count(1)
        self._heard = dict.fromkeys(others, time.monotonic())

    def tell(self, progress: StepProgress, *, state: str = "alive") -> None:
        """Gives a sign to the others. If process 0 is gone, nobody hears it."""
        if self._peers.store is None:
            return
        sign = ProcessStatus(state, next(self._beats), progress)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._peers.store.key_value_set(f"{_FOLDER}{self._peers.index}", str(sign), True)

    def lost(self) -> LostProcess | None:
        """Takes up the signs of the others; an error that names those that are gone, if any are."""
        if self._peers.store is None:
            return None
        try:
            texts = read_folder(self._peers.store, _FOLDER)
        except jax.errors.JaxRuntimeError:  # Process 0, which knows them, does not answer.
            is_gone = not self._peers.is_first and self._is_silent(0)
            return self._gone([0]) if is_gone else None
        for index, text in texts.items():
            if index in self.signs and self.signs[index] != (sign := ProcessStatus.from_text(text)):
                self.signs[index], self._heard[index] = sign, time.monotonic()
        failed = [index for index, sign in self.signs.items() if sign.state == "failed"]
        if failed:
            return LostProcess(f"{self._peers.named(failed)} has failed, as its own log tells.")
        silent = [index for index in self._alive() if self._is_silent(index)]
        return self._gone(silent) if silent else None

    def explain(self, progress: StepProgress) -> LostProcess | None:
        """Whether an error that broke off a computation came of a lost process.

        Waits until either is clear: a process is gone, or each of the others lives.
        """
        lost, before = self.lost(), dict(self.signs)
        while lost is None and any(
            self.signs[index].beat < before[index].beat + 2 for index in self._alive()
        ):
            time.sleep(self.every / 2)
            self.tell(progress)
            lost = self.lost()
        return lost

    def let_others_leave(self) -> None:
        """Process 0 holds what all are told: it stays until they have read that, two signs long."""
        deadline = time.monotonic() + 2 * self.every
        while time.monotonic() < deadline:
            self.lost()
            if all(self._is_silent(index) for index in self._alive()):
                break
            time.sleep(self.every / 10)

    def _gone(self, indices: list[int]) -> LostProcess:
        names, seconds = self._peers.named(indices), f"{self._silence:.0f} s"
        return LostProcess(f"{names} is gone: not heard of for {seconds}.")

    def _alive(self) -> list[int]:
        return [index for index, sign in self.signs.items() if sign.state == "alive"]

    def _is_silent(self, index: int) -> bool:
        return time.monotonic() - self._heard[index] > self._silence
