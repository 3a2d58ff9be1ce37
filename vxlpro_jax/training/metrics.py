"""Reports metrics of a run: console lines, `metrics.jsonl` (an object per step), TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

import jax

from vxlpro_jax.training.curves import draw_curves
from vxlpro_jax.training.event_file import EventFile
from vxlpro_jax.training.goodput import WallTime
from vxlpro_jax.utils import accelerators
from vxlpro_jax.utils.files import write_atomically

_SECONDS_BETWEEN_DRAWINGS = 30.0  # One takes about a second, in which nothing is trained.


class MetricsWriter:
    """Collects device scalars without waiting for them and writes them at each `flush`.

    A resumed run first drops lines of `metrics.jsonl` past its checkpoint, so that the file always
    has one line per step. `mfu` is the step's FLOPs (see `flops`; causal attention costs half) as a
    share of the devices' peak, if the peak is known. Without `workdir` nothing is written, because
    another process writes.
    """

    def __init__(
        self,
        workdir: Path | None,
        *,
        first_step: int,
        total_steps: int,
        wall_time: WallTime,
    ):
        self._files = _Files(workdir, first_step=first_step) if workdir else None
        self._total_steps = total_steps
        self._wall_time = wall_time
        self._peak_flops = _peak_flops()
        self._pending: list[dict[str, Any]] = []
        self._counted = wall_time.training
        self._drawn_at = self._wall_time.total

    def add(self, step: int, metrics: dict[str, jax.Array], *, data_wait: float) -> None:
        """Queues one step's scalars; `data_wait` is the seconds that it waited for its batch."""
        self._pending.append({"step": step, **metrics, "data_wait": data_wait})

    def flush(self) -> None:
        """Waits for the queued steps, writes them, and prints the last one."""
        if not self._pending:
            return
        rows = [_to_numbers(row) for row in jax.device_get(self._pending)]
        self._pending = []
        self._wall_time.lap("step")
        seconds = (self._wall_time.training - self._counted) / len(rows)
        self._counted = self._wall_time.training
        shared = {"goodput": self._wall_time.goodput, **_memory()}
        shared |= _rates(rows, seconds=seconds, peak_flops=self._peak_flops)
        for row in rows:
            row |= shared
        if self._files:
            self._files.write(rows)
        print(_console_line(rows[-1], total_steps=self._total_steps), flush=True)
        self._wall_time.lap("report")

    def draw_if_due(self) -> None:
        """Draws `curves.png`, unless it was drawn in the last half minute."""
        if self._wall_time.total - self._drawn_at >= _SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    def draw(self) -> None:
        """Draws `curves.png` from all written steps."""
        if self._files:
            self._files.draw()
        self._drawn_at = self._wall_time.total

    def close(self) -> None:
        """Writes queued steps and closes the files."""
        self.flush()
        if self._files:
            self._files.close()


class _Files:
    """The files `metrics.jsonl` and `curves.png`, and TensorBoard's."""

    def __init__(self, workdir: Path, *, first_step: int):
        self._workdir, self._path = workdir, workdir / "metrics.jsonl"
        _truncate(self._path, first_step=first_step)
        self._events = EventFile(workdir / "tensorboard", purge_step=first_step + 1)

    def write(self, rows: list[dict[str, Any]]) -> None:
        with self._path.open("a") as file:
            file.writelines(json.dumps(_without_nan(row)) + "\n" for row in rows)
        for row in rows:
            scalars = {name: value for name, value in row.items() if name != "step"}
            self._events.add_scalars(row["step"], scalars)
        self._events.flush()

    def draw(self) -> None:
        if self._path.exists():
            draw_curves(self._workdir)

    def close(self) -> None:
        self._events.close()


def _truncate(path: Path, *, first_step: int) -> None:
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    whole = (line for line in lines if line.endswith("\n"))
    kept = [line for line in whole if json.loads(line)["step"] <= first_step]
    write_atomically(path, "".join(kept))


def _to_numbers(row):
    return {name: x if isinstance(x, int | float) else x.item() for name, x in row.items()}


def _without_nan(row):
    """Returns the row for JSON, with null where a value is not finite."""
    return {name: x if math.isfinite(x) else None for name, x in row.items()}


def _rates(rows, *, seconds, peak_flops):
    """Averages over the rows: single steps are not timed, and their shapes may differ."""
    counted = {
        name: sum(row[name] for row in rows) / len(rows)
        for name in ("tokens", "frames", "flops")
        if name in rows[0]
    }
    rates = {f"{name}_per_second": count / seconds for name, count in counted.items()}
    if peak_flops and "flops" in counted:
        rates["mfu"] = rates["flops_per_second"] / peak_flops
    return {"step_seconds": seconds, **rates}


def _peak_flops() -> float | None:
    """Returns the peak FLOPs per second of all devices together; None if their kind is unknown."""
    chip = accelerators.accelerator_of_kind(jax.devices()[0].device_kind)
    return chip.flops * jax.device_count() if chip else None


def _memory() -> dict[str, int]:
    """Returns the peak memory of a device of this process, where the platform reports it."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in stats if "peak_bytes_in_use" in found]
    return {"hbm_peak_bytes": max(peaks)} if peaks else {}


def _console_line(row, *, total_steps):
    speed = "".join(
        f"{row[f'{name}_per_second']:.0f} {name}/s  "
        for name in ("tokens", "frames")
        if name in row
    )
    return (
        f"step {row['step']}/{total_steps}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
        f"grad_norm {row['grad_norm']:.3f}  {row['step_seconds']:.2f} s/step  {speed}"
        f"{_extras(row)}data wait {row['data_wait'] / row['step_seconds']:.0%}"
    )


def _extras(row):
    """Formats figures that only some runs and platforms report."""
    skipped = f"{row['skipped_steps']} skipped  " if row.get("skipped_steps") else ""
    mfu = f"MFU {row['mfu']:.1%}  " if "mfu" in row else ""
    hbm = f"{row['hbm_peak_bytes'] / 2**30:.1f} GiB  " if "hbm_peak_bytes" in row else ""
    return skipped + mfu + hbm
