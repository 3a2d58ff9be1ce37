"""Handles steps that make no update because their gradients were not finite."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import jax

from vxlpro_jax.distributed.process_group import ProcessGroup
from vxlpro_jax.training.step import Metrics
from vxlpro_jax.utils.errors import InputError

# A single bad step can come from an odd sample; several in a row mean that the run has diverged.
_MOST_IN_A_ROW = 3
_NAMED_FILES = 3
_FILE = "skipped_steps.jsonl"


class SkippedSteps:
    """Reports skipped steps with the files of their batches; ends the run after a few in a row.

    `skipped_steps.jsonl` in the run's folder lists them.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        count: int,
        group: ProcessGroup,
        total_steps: int,
        before_end: Callable[[], None],
    ):
        """Continues counting.

        Args:
            workdir: folder of the run.
            count: number of steps that the run has skipped so far.
            group: processes of the run.
            total_steps: number of steps of the run; not all of them may be skipped.
            before_end: function called before the run is ended.
        """
        self._path, self._group, self._before_end = workdir / _FILE, group, before_end
        self._most_in_a_row = min(_MOST_IN_A_ROW, total_steps)
        self._count = count
        self._in_a_row = 0
        self._pending: tuple[int, Metrics, tuple[str, ...]] | None = None

    def add(self, step: int, scalars: Metrics, *, files: tuple[str, ...]) -> None:
        """Checks the previously added step, which has ended, and stores this one.

        Args:
            step: number of the step.
            scalars: metrics of the step.
            files: files of this process's rows of the batch.

        Raises:
            InputError: too many steps in a row were skipped.
        """
        self.check()
        self._pending = step, scalars, files

    def check(self) -> bool:
        """Waits for the last step that was added, and returns whether it was skipped.

        Raises:
            InputError: too many steps in a row were skipped.
        """
        if self._pending is None:
            return self._in_a_row > 0
        (step, scalars, files), self._pending = self._pending, None
        count = int(scalars["skipped_steps"])
        self._in_a_row = self._in_a_row + 1 if count > self._count else 0
        self._count = count
        if self._in_a_row:
            self._report(step, scalars, self._of_all_processes(step, files))
        return self._in_a_row > 0

    def _of_all_processes(self, step: int, files: tuple[str, ...]) -> list[str]:
        shares = self._group.gather(f"files of step {step}", json.dumps(files))
        return [file for share in shares for file in json.loads(share)]

    def _report(self, step: int, scalars: Metrics, files: list[str]) -> None:
        loss = float(jax.device_get(scalars["loss"]))
        if self._group.is_first:
            entry = {"step": step, "loss": loss if math.isfinite(loss) else None, "files": files}
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(entry) + "\n")
        print(f"Step {step} is skipped, its gradients are not finite: {_named(files)}.", flush=True)
        if self._in_a_row < self._most_in_a_row:
            return
        self._before_end()
        raise InputError(
            f"The gradients of {self._in_a_row} steps in a row are not finite, the last of them at"
            f" step {step} (loss {loss:g}) with the files {_named(files)} ({self._path} lists all):"
            " none of these steps is saved; lower optim.lr or optim.clip_norm, or repair the"
            " files, and start the same command again, which continues from the last checkpoint."
        )


def _named(files: list[str]) -> str:
    names, more = ", ".join(files[:_NAMED_FILES]), len(files) - _NAMED_FILES
    return f"{names} and {more} more" if more > 0 else names
