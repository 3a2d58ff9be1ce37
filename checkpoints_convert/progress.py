"""Shows the progress of a conversion: a bar on a terminal, or else a line every few seconds."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

Advance = Callable[[int], object]
_SECONDS_BETWEEN_LINES = 10


@contextlib.contextmanager
def track(title: str, *, total_bytes: int) -> Iterator[Advance]:
    """Yields a function to call with the number of bytes processed since the last call."""
    if sys.stderr.isatty():
        with tqdm(total=total_bytes, desc=title, unit="B", unit_scale=True) as bar:
            yield bar.update
        return
    done, printed = 0, time.monotonic()

    def advance(nbytes: int) -> None:
        nonlocal done, printed
        done += nbytes
        if time.monotonic() - printed > _SECONDS_BETWEEN_LINES:
            printed = time.monotonic()
            print(f"{title}: {done / 1e9:.1f} of {total_bytes / 1e9:.1f} GB", file=sys.stderr)

    yield advance
