"""Kills the data iterator repeatedly and checks that its batches equal an uninterrupted run's.

    python benchmarks/killed_iterator.py [--kills 20] [--steps 2000] [--seed 0]

Reads the embedded clips, packed, with decoder processes. Real processes, first 4, then 2, then 1,
share each batch and store their states after every step. All are killed with SIGKILL at a random
moment, and the next ones resume from the last step that all killed ones had reached. The digest of
every row of every step is compared with that of a single uninterrupted process.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from vxlpro_jax.config.schema import DataConfig
from vxlpro_jax.data.loader.batches import BatchIterator
from vxlpro_jax.data.loader.build import build_pipeline
from vxlpro_jax.utils.files import write_atomically

_DATA = DataConfig(
    batch_size=4, max_frames=16, frames_per_sample=8, max_text_tokens=256, samples_per_row=4
)
_COUNTS = (4, 2, 1)


def main() -> None:
    """Prints each kill, and whether all rows are equal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        folder, index, count = args.worker
        work(Path(folder), index=int(index), count=int(count), steps=args.steps)
        return
    with tempfile.TemporaryDirectory() as parts, tempfile.TemporaryDirectory() as whole:
        _run(Path(whole), count=1, steps=args.steps, seconds=None)
        _killed(Path(parts), args)
        same = _rows(Path(parts), args.steps) == _rows(Path(whole), args.steps)
    print(f"All {args.steps} steps are the same: {same}")
    sys.exit(not same)


def work(folder: Path, *, index: int, count: int, steps: int) -> None:
    """Runs one process: its rows of every step from the last common one, up to `steps`."""
    batches = build_pipeline(
        _DATA, image_size=112, seed=0, process_index=index, process_count=count
    )
    done = 0
    if start := json.loads((folder / "start.json").read_text()):
        done = start["step"]
        batches.set_state(start["state"])
    for step in range(done, steps):
        digests = list(_digests(next(batches)))
        record = {"rows": digests, "state": batches.get_state()}
        write_atomically(folder / f"{step:05d}-{index}-of-{count}.json", json.dumps(record))
    batches.close()


def _digests(batch: dict) -> Iterator[str]:
    for row in range(len(batch["tokens"])):
        parts = b"".join(batch[name][row].tobytes() for name in sorted(batch))
        yield hashlib.sha256(parts).hexdigest()


def _killed(folder: Path, args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    for kill in range(args.kills):
        count = _COUNTS[min(kill * len(_COUNTS) // args.kills, len(_COUNTS) - 1)]
        # Starting takes a few seconds.
        _run(folder, count=count, steps=args.steps, seconds=rng.uniform(3, 6))
        print(f"kill {kill + 1}: {count} processes, all had {_start(folder)} steps", flush=True)
    _run(folder, count=1, steps=args.steps, seconds=None)


def _run(folder: Path, *, count: int, steps: int, seconds: float | None) -> None:
    """Runs processes from the last common step on; kills them after `seconds`, or lets them end."""
    _start(folder)
    command = [sys.executable, __file__, f"--steps={steps}", "--worker", str(folder)]
    workers = [subprocess.Popen([*command, str(index), str(count)]) for index in range(count)]
    if seconds is not None:
        time.sleep(seconds)
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
    codes = [worker.wait() for worker in workers]
    if seconds is None and any(codes):
        sys.exit(f"Workers ended with {codes}.")


def _start(folder: Path) -> int:
    """Writes the step from which all may resume, removes later files, and returns the step."""
    step, state = 0, None
    while files := _complete(folder, step):
        states = [json.loads(file.read_text())["state"] for file in files]
        state = BatchIterator.join_states(states)
        step += 1
    for file in folder.glob("*-of-*.json"):
        if int(file.name[:5]) >= step:
            file.unlink()
    start = {"step": step, "state": state} if state else None
    write_atomically(folder / "start.json", json.dumps(start))
    return step


def _complete(folder: Path, step: int) -> list[Path]:
    """Returns the files of a step by process; none if any is missing."""
    files = sorted(folder.glob(f"{step:05d}-*-of-*.json"))
    return files if files and len(files) == int(files[0].stem.rpartition("-")[2]) else []


def _rows(folder: Path, steps: int) -> list[list[str]]:
    return [
        [row for file in _complete(folder, step) for row in json.loads(file.read_text())["rows"]]
        for step in range(steps)
    ]


if __name__ == "__main__":
    main()
