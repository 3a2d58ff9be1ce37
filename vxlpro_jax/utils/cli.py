"""What commands share: flags with a config file, progress, and how they end."""

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from tqdm import tqdm

from vxlpro_jax.utils.errors import Failure, InputError


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code; a user's mistake is one sentence and code 2."""
    try:
        code = main()
    except (InputError, Failure, KeyboardInterrupt) as error:
        code = report_error(error)
    sys.exit(code or 0)


def report_error(error: BaseException) -> int:
    """Says why a command ends, and returns the code that it ends with."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, InputError | Failure):
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else error.code
    traceback.print_exception(error)
    return 1


def exit_now(code: int) -> NoReturn:
    """Ends the process at once, without waiting for its threads or for other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def progress(items: Iterable, *, name: str, unit: str, total: int | None = None) -> Iterable:
    """The items, with a bar on a terminal and a line every half minute otherwise.

    `total` is how many there are, where they do not tell.
    """
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(items, desc=name, unit=f" {unit}", total=total, mininterval=interval)
