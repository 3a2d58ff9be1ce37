"""Helpers of commands: exit codes, error messages and progress bars."""

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from tqdm import tqdm

from vxlpro_jax.utils.errors import Failure, InputError


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code, which is 2 after a mistake of the user."""
    try:
        code = main()
    except (InputError, Failure, KeyboardInterrupt) as error:
        code = report_error(error)
    sys.exit(code or 0)


def report_error(error: BaseException) -> int:
    """Prints why a command ends, and returns its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, InputError | Failure):
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else error.code
    traceback.print_exception(error)
    return 1


def exit_now(code: int) -> NoReturn:
    """Ends the process immediately, without waiting for its threads or for other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def progress(items: Iterable, *, name: str, unit: str, total: int | None = None) -> Iterable:
    """Yields the items with a progress bar on a terminal, or a line every half minute otherwise.

    Args:
        items: items to go through.
        name: description in front of the bar.
        unit: word for an item.
        total: number of items, if `len` does not give it.
    """
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(items, desc=name, unit=f" {unit}", total=total, mininterval=interval)
