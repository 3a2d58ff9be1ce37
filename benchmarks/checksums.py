"""Measures the share of a model folder's loading time that goes into verifying its checksums.

    python benchmarks/checksums.py --checkpoint DIR [--rounds 3] [--dtype float32] [--cold]

Each round loads the parameters as they are, and loads them from a folder of hard links that lacks
`checksums.json`, as folders written before checksums do. The order alternates. Each load is a
process of its own. With `--cold` the system's cache is emptied before each load, which needs root;
otherwise the files stay in it, which makes the share an upper bound.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
sys.path.insert(0, str(_ROOT))

from vxlpro_jax.checkpoints import checksums, params


def main() -> None:
    """Prints the seconds of each round, and the median share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="", help="dtype to load; empty for the stored one")
    parser.add_argument("--cold", action="store_true", help="read the files from the disk")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(_seconds_of(args.one, dtype=args.dtype))
        return
    folder = Path(params.locate(args.checkpoint).params)
    if not (folder / checksums.FILE).exists():
        sys.exit(f"error: {folder} has no {checksums.FILE}: convert the checkpoint again.")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unchecked-") as copy:
        unchecked = Path(copy) / "params"
        _link_without_checksums(folder, unchecked)
        _load(unchecked, args)  # Brings the files into the system's cache.
        shares = [
            _round(folder, unchecked, args, is_odd=index % 2 == 1) for index in range(args.rounds)
        ]
    print(f"Checksums take {statistics.median(shares):.1%} of the loading time (median).")


def _round(folder: Path, unchecked: Path, args: argparse.Namespace, *, is_odd: bool) -> float:
    order = [folder, unchecked]
    seconds = {place: _load(place, args) for place in (reversed(order) if is_odd else order)}
    share = 1 - seconds[unchecked] / seconds[folder]
    print(
        f"verified {seconds[folder]:.2f} s, unverified {seconds[unchecked]:.2f} s: {share:.1%}",
        flush=True,
    )
    return share


def _load(folder: Path, args: argparse.Namespace) -> float:
    if args.cold:
        os.sync()
        _DROP_CACHES.write_text("3")
    command = [sys.executable, __file__, "--checkpoint", args.checkpoint, "--one", folder]
    done = subprocess.run([*command, "--dtype", args.dtype], check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def _seconds_of(folder: Path, *, dtype: str) -> float:
    began = time.monotonic()
    params.read_params(folder, dtype=dtype or None)
    return time.monotonic() - began


def _link_without_checksums(folder: Path, copy: Path) -> None:
    for file in filter(Path.is_file, folder.rglob("*")):
        if file.name != checksums.FILE:
            place = copy / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)


if __name__ == "__main__":
    main()
