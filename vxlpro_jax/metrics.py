"""What a run reports: console lines, `metrics.jsonl` (one object a step), TensorBoard files."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter

from vxlpro_jax.files import write_atomically


class MetricsWriter:
    """Collects device scalars without waiting for them and writes them at each `flush`.

    A restarted run first drops what `metrics.jsonl` holds past its checkpoint, so the file always
    has one line a step.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        first_step: int,
        total_steps: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._path = workdir / "metrics.jsonl"
        _truncate(self._path, first_step=first_step)
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step)
        self._total_steps = total_steps
        self._clock = clock
        self._pending: list[dict[str, Any]] = []
        self._since = clock()

    def add(self, step: int, metrics: dict[str, jax.Array], *, data_wait: float) -> None:
        """Queues one step's scalars; `data_wait` is the seconds it waited for its batch."""
        self._pending.append({"step": step, **metrics, "data_wait": data_wait})

    def flush(self) -> None:
        """Waits for the queued steps, writes them, and prints the last of them.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        if not self._pending:
            return
        rows = [_to_numbers(row) for row in jax.device_get(self._pending)]
        self._pending = []
        seconds = (self._clock() - self._since) / len(rows)
        self._since = self._clock()
        for row in rows:
            row |= _rates(row, seconds=seconds)
        with self._path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    self._tensorboard.add_scalar(name, value, row["step"])
        self._tensorboard.flush()
        print(_console_line(rows[-1], total_steps=self._total_steps), flush=True)
        _check_finite(rows)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the step clock for what is not training, a save say."""
        started = self._clock()
        yield
        self._since += self._clock() - started

    def close(self) -> None:
        """Writes what is queued and closes the files."""
        self.flush()
        self._tensorboard.close()


def draw_curves(workdir: Path) -> None:
    """Draws loss, gradient norm and learning rate of `metrics.jsonl` to `curves.png`."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("loss", "grad_norm", "lr"), strict=True):
        axes.plot([row["step"] for row in rows], [row[name] for row in rows])
        axes.set(title=name, xlabel="step")
    figure.savefig(workdir / "curves.png", dpi=120)


def _truncate(path: Path, *, first_step: int) -> None:
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    whole = (line for line in lines if line.endswith("\n"))
    kept = [line for line in whole if json.loads(line)["step"] <= first_step]
    write_atomically(path, "".join(kept))


def _to_numbers(row):
    return {name: x if isinstance(x, int | float) else x.item() for name, x in row.items()}


def _rates(row, *, seconds):
    counted = {name: row[name] for name in ("tokens", "frames") if name in row}
    per_second = {f"{name}_per_second": count / seconds for name, count in counted.items()}
    return {"step_seconds": seconds, **per_second}


def _console_line(row, *, total_steps):
    speed = "".join(
        f"{row[f'{name}_per_second']:.0f} {name}/s  "
        for name in ("tokens", "frames")
        if name in row
    )
    return (
        f"step {row['step']}/{total_steps}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
        f"grad_norm {row['grad_norm']:.3f}  {row['step_seconds']:.2f} s/step  {speed}"
        f"data wait {row['data_wait'] / row['step_seconds']:.0%}"
    )


def _check_finite(rows):
    for row in rows:
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(
                f"Loss is {row['loss']} at step {row['step']}: lower optim.lr or optim.clip_norm"
                " and start again from the last checkpoint."
            )
