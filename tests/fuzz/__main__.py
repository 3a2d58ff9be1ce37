"""Runs the fuzzing for long: `python -m tests.fuzz --seed 1 --count 20000`, over all parsers.

Each parser runs in its own process, so that a crash or a hang can be attributed to it.
"""

import argparse
import subprocess
import sys
import time
from collections import Counter

import hypothesis

from tests.fuzz.check import LONGEST_SECONDS, check
from tests.fuzz.parsers import NAMES, parser


def main() -> int:
    flags = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    flags.add_argument("--seed", type=int, default=0, help="seed of the inputs")
    flags.add_argument("--count", type=int, default=1000, help="total number of inputs")
    flags.add_argument("--parser", choices=NAMES, help="only this parser, in this process")
    arguments = flags.parse_args()
    if arguments.parser:
        run(arguments.parser, seed=arguments.seed, count=arguments.count)
        return 0
    print(f"{'parser':28} {'inputs':>7} {'read':>7} {'refused':>7} {'seconds':>7}  fault")
    faults = [
        name
        for name in NAMES
        if not _passes(name, seed=arguments.seed, count=-(-arguments.count // len(NAMES)))
    ]
    print(f"{len(faults)} parsers with faults{': ' if faults else ''}{', '.join(faults)}")
    return 1 if faults else 0


def run(name: str, *, seed: int, count: int) -> Counter[str]:
    """Checks `count` inputs of a parser; prints and returns the numbers of read and refused ones.

    Raises:
        Exception: an unexpected exception of the parser, for the simplest such input found.
    """
    fuzzed, ends = parser(name), Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(fuzzed.cases)
    def one(files):
        ends["read" if check(fuzzed, files) else "refused"] += 1

    one()
    print(f"{ends.total()} {ends['read']} {ends['refused']}")
    return ends


def _passes(name: str, *, seed: int, count: int) -> bool:
    command = [sys.executable, "-m", "tests.fuzz", "--parser", name]
    began = time.monotonic()
    process = subprocess.run(
        [*command, "--seed", str(seed), "--count", str(count)], capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    counts = process.stdout.split()[-3:] if process.returncode == 0 else ["", "", ""]
    fault = "" if process.returncode == 0 else f"exit {process.returncode}, see below"
    print(f"{name:28} {counts[0]:>7} {counts[1]:>7} {counts[2]:>7} {seconds:7.0f}  {fault}")
    if fault:
        print(process.stderr[-4000:])
        print(f"A hang is one that took over {LONGEST_SECONDS} s.")
    sys.stdout.flush()
    return not fault


if __name__ == "__main__":
    sys.exit(main())
