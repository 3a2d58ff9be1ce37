"""How far a conversion is: a bar on a terminal, else a line every few seconds."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

Advance = Callable[[int], None]
_SECONDS_BETWEEN_LINES = 10


@contextlib.contextmanager
def track(title: str, *, total_bytes: int) -> Iterator[Advance]:
    """Gives a function to call with the number of bytes done since the last call."""
    if sys.stderr.isatty():
        with tqdm(total=total_bytes, desc=title, unit="B", unit_scale=True) as bar:
            yield bar.update
        return
    done, told = 0, time.monotonic()

    def advance(nbytes: int) -> None:
        nonlocal done, told
        done += nbytes
        if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            print(f"{title}: {done / 1e9:.1f} of {total_bytes / 1e9:.1f} GB", file=sys.stderr)

    yield advance
