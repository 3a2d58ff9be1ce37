"""Helpers for commands: exit codes, error messages and progress bars."""

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
# Line breaks and all other characters that move a terminal's cursor.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*@")


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code, which is 2 after a user's mistake."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Line buffering keeps stdout and stderr in order in a log file; a file name may contain
        # bytes that are not UTF-8.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        code = main()
    except KeyboardInterrupt as error:
        code = report_error(error)
    except Exception as error:
        if _sentence(error) is None:
            raise
        code = report_error(error)
    sys.exit(code or 0)


def report_error(error: BaseException) -> int:
    """Prints the reason why a command ends, and returns its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if (known := _sentence(error)) is None:
        traceback.print_exception(error)
        return 1
    if isinstance(known, _ReaderGone):
        _drop_output()
    print(f"error: {one_line(str(known))}", file=sys.stderr)
    return 2 if isinstance(known, InputError) else known.code


def _sentence(error: BaseException) -> InputError | Failure | None:
    """Returns the error that explains what happened in a sentence; None for an unexpected one."""
    if isinstance(error, InputError | Failure):
        return error
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return full_disk(error.filename)
    if _nobody_reads(error):
        return _ReaderGone("The program that read the output has ended, so this command ends too.")
    if _is_out_of_memory(error):
        return Failure(
            f"The device has too little memory ({error}): choose smaller batches or fewer frames."
            " `python -m vxlpro_jax.compile` shows what fits without a device."
        )
    return None


class _ReaderGone(Failure):
    """The reader of stdout has ended; the exit code is a shell's for a closed pipe."""

    code = 141


def _is_out_of_memory(error: BaseException) -> bool:
    """Returns whether it is JAX's error for a full device; commands without JAX never raise it."""
    jax = sys.modules.get("jax")
    return (
        jax is not None
        and isinstance(error, jax.errors.JaxRuntimeError)
        and str(error).startswith("RESOURCE_EXHAUSTED")
    )


def _nobody_reads(error: BaseException) -> bool:
    """Returns whether the error means that stdout is a pipe whose reader, as `head`, has ended."""
    if not isinstance(error, BrokenPipeError):
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _drop_output() -> None:
    """Redirects stdout so that Python's own flush at exit succeeds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def full_disk(path: object) -> InputError:
    """Makes the error for a write that found no space; `path` is the file, None if unknown."""
    where = f" while writing {path}" if path else ""
    return InputError(
        f"The disk is full, or the quota is used up,{where}: free space and start the same command"
        " again."
    )


def one_line(message: str) -> str:
    """Returns the message on one line of at most 500 characters, without passwords in URLs.

    Characters that Python does not count as printable are escaped.

    A longer message loses its middle, because its end says what to do.
    """
    text = _CREDENTIALS.sub("", "".join(map(_printable, _CONTROLS.sub(" ", message)))).strip()
    if len(text) <= _LONGEST_MESSAGE:
        return text
    gap = " … "
    tail = _LONGEST_MESSAGE // 3
    return text[: _LONGEST_MESSAGE - tail - len(gap)] + gap + text[-tail:]


def _printable(letter: str) -> str:
    """Returns a letter as a terminal may show it; others could turn the text's direction."""
    if letter.isprintable():
        return letter
    return " " if letter.isspace() else letter.encode("unicode_escape").decode("ascii")


def exit_now(code: int) -> NoReturn:
    """Ends the process immediately, without waiting for its threads or for other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def progress(items: Iterable, *, name: str, unit: str, total: int | None = None) -> Iterable:
    """Yields the items with a progress bar on a terminal, or else a line every 30 seconds.

    Args:
        items: items to yield.
        name: description before the bar.
        unit: word for one item.
        total: number of items, if `len` does not give it.
    """
    return progress_bar(items, desc=name, unit=f" {unit}", total=total)


def progress_bar(items: Iterable | None = None, **options: Any) -> tqdm:
    """Makes a bar on stderr with options of `tqdm`; prints lines if stderr is not a terminal."""
    if sys.stderr.isatty():
        return tqdm(items, mininterval=0.1, **options)
    return tqdm(items, mininterval=30, file=_Lines(), **options)


class _Lines(io.TextIOBase):
    """Prints each state of a progress bar on its own line, where tqdm would overwrite the last."""

    def write(self, text: str) -> int:
        if line := text.replace("\x1b[A", "").strip():
            print(line, file=sys.stderr, flush=True)
        return len(text)
