"""Kills tiny training runs at random moments and checks that this does not change the losses.

    python benchmarks/killed_training.py [--kills 200] [--steps 60] [--every 2] [--seed 0]

A run saves every second step, so that many kills with SIGKILL hit a save. The first third of the
kills happen while the command starts, the others some time after its first step. When a run has
finished, its losses are compared, and the next run starts, until there were enough kills.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[1]
_STARTING = 6.0  # Seconds.
_TRAINING = 4.0


class Kill(NamedTuple):
    """Attributes: last `step` in the metrics; whether a save had begun but not ended."""

    step: int
    is_in_save: bool


def main() -> None:
    """Prints each kill, and at the end the number of runs with equal losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=2, help="steps between saves")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, kills, runs = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        _finish(_start(whole, args))
        while kills < args.kills:
            runs += 1
            workdir = Path(folder) / f"run{runs}"
            kills += _killed_run(workdir, args, rng=rng, most=args.kills - kills)
            if _losses(workdir) != _losses(whole):
                sys.exit(f"Run {runs} has other losses: kills so far {kills}.")
    print(f"{kills} kills in {runs} runs; all losses are those of the uninterrupted run.")


def _killed_run(workdir: Path, args: argparse.Namespace, *, rng: random.Random, most: int) -> int:
    """Restarts a run until it has finished; returns the number of times that it was killed."""
    for kills in range(most):
        process = _start(workdir, args)
        kill = _kill(process, workdir, rng=rng)
        if kill is None:
            return kills
        where = "in a save" if kill.is_in_save else ""
        print(f"{workdir.name}, kill {kills + 1}: after step {kill.step} {where}", flush=True)
    _finish(_start(workdir, args))
    return most


def _start(workdir: Path, args: argparse.Namespace) -> subprocess.Popen:
    flags = {"total_steps": args.steps, "checkpoint_every": args.every}
    command = [sys.executable, "-m", "vxlpro_jax.train", "--config=configs/stage2.py"]
    command += [f"--config.{name}={value}" for name, value in flags.items()]
    log = workdir.with_suffix(".log").open("a")
    compiled = str(workdir.parent / "compiled")
    with log:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            cwd=_ROOT,
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": compiled},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _kill(process: subprocess.Popen, workdir: Path, *, rng: random.Random) -> Kill | None:
    """Kills the process at a random moment; returns None if it had already ended."""
    if rng.random() < 1 / 3:
        time.sleep(rng.uniform(0, _STARTING))
    else:
        before = _last_step(workdir)
        while _last_step(workdir) == before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, _TRAINING))
    is_killed = process.poll() is None
    process.kill()
    if process.wait() not in (0, -9):
        sys.exit(f"The run {workdir} failed: {workdir.with_suffix('.log').read_text()[-2000:]}")
    if not is_killed:
        return None
    saves = [path.name for path in (workdir / "checkpoints").glob("*")]
    return Kill(_last_step(workdir), any(not name.isdigit() for name in saves))


def _finish(process: subprocess.Popen) -> None:
    if process.wait():
        sys.exit(f"A run that nobody kills ended with {process.returncode}.")


def _rows(workdir: Path) -> list[dict]:
    """Returns the complete lines of the metrics; a killed process may leave an incomplete one."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _last_step(workdir: Path) -> int:
    rows = _rows(workdir)
    return rows[-1]["step"] if rows else 0


def _losses(workdir: Path) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in _rows(workdir)]


if __name__ == "__main__":
    main()
