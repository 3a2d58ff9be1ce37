"""Helpers of commands: exit codes, error messages and progress bars."""

import io
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from tqdm import tqdm

from vxlpro_jax.utils.errors import Failure, InputError
from vxlpro_jax.utils.files import FULL_DISK

_LONGEST_MESSAGE = 500
# Line breaks and all else that moves a terminal's cursor.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*@")


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code, which is 2 after a mistake of the user."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Line by line, so that a log file has stdout and stderr in their order; a file name may
        # hold bytes that are not UTF-8.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        code = main()
    except (InputError, Failure, KeyboardInterrupt) as error:
        code = report_error(error)
    except OSError as error:
        if error.errno not in FULL_DISK and not _nobody_reads(error):
            raise
        code = report_error(error)
    sys.exit(code or 0)


def report_error(error: BaseException) -> int:
    """Prints why a command ends, and returns its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if _nobody_reads(error):
        _drop_output()
        error = _ReaderGone("Whatever read the output has ended, and so does this command.")
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        error = full_disk(error.filename)
    if isinstance(error, InputError | Failure):
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else error.code
    traceback.print_exception(error)
    return 1


class _ReaderGone(Failure):
    """As a shell reports a command that a closed pipe has ended."""

    code = 141


def _nobody_reads(error: BaseException) -> bool:
    """Whether it was raised because stdout is a pipe of which the reader has ended, as `head`."""
    if not isinstance(error, BrokenPipeError):
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _drop_output() -> None:
    """Lets Python's own flush at the end succeed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def full_disk(path: object) -> InputError:
    """The error for a write that found no space; `path` is what was written, None if unknown."""
    where = f" while writing {path}" if path else ""
    return InputError(
        f"The disk is full, or the quota is used up,{where}: free space and start the same command"
        " again."
    )


def one_line(message: str) -> str:
    """The message on one line of at most 500 characters, without passwords of URLs.

    Of a longer one the middle is left out, because the end says what to do.
    """
    text = _CREDENTIALS.sub("", _CONTROLS.sub(" ", message)).strip()
    if len(text) <= _LONGEST_MESSAGE:
        return text
    gap = " … "
    tail = _LONGEST_MESSAGE // 3
    return text[: _LONGEST_MESSAGE - tail - len(gap)] + gap + text[-tail:]


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
    return progress_bar(items, desc=name, unit=f" {unit}", total=total)


def progress_bar(items: Iterable | None = None, **options: Any) -> tqdm:
    """A bar on the error stream, with options of `tqdm`; lines of it if that is no terminal."""
    if sys.stderr.isatty():
        return tqdm(items, mininterval=0.1, **options)
    return tqdm(items, mininterval=30, file=_Lines(), **options)


class _Lines(io.TextIOBase):
    """Prints each state of a progress bar on a line, where tqdm would overwrite the last one."""

    def write(self, text: str) -> int:
        if line := text.replace("\x1b[A", "").strip():
            print(line, file=sys.stderr, flush=True)
        return len(text)
