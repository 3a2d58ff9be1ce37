"""Gives one input to a parser and checks its behaviour."""

import faulthandler
import resource
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from vxlpro_jax.utils.cli import one_line
from vxlpro_jax.utils.errors import Failure, InputError

LONGEST_SECONDS = 60
MOST_GROWTH = 2**30  # In bytes.

Files = Mapping[str, bytes]


class Parser(NamedTuple):
    """A parser of one kind of input.

    Attributes:
        name: name of the parser.
        cases: strategy of inputs, each of which is a folder's files by name.
        read: function that reads the folder. Apart from returning it may only raise
            InputError or Failure; if another reader finds different values, it raises
            AssertionError.
    """

    name: str
    cases: st.SearchStrategy[Files]
    read: Callable[[Path], object]


def check(parser: Parser, files: Files) -> bool:
    """Returns whether the input was read; False if it was refused in one sentence.

    Raises:
        Exception: an unexpected exception of the parser.
        AssertionError: the memory grew by more than `MOST_GROWTH`, or the message is no sentence.
    """
    before = _peak_bytes()
    faulthandler.dump_traceback_later(LONGEST_SECONDS, exit=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(data)
            is_read = _is_read(parser, Path(folder))
    finally:
        faulthandler.cancel_dump_traceback_later()
    grown = _peak_bytes() - before
    assert grown <= MOST_GROWTH, f"memory grew by {grown / 2**20:.0f} MiB"
    return is_read


def _is_read(parser: Parser, folder: Path) -> bool:
    try:
        parser.read(folder)
    except (InputError, Failure) as error:
        message = one_line(str(error))
        assert message.isprintable(), message
        assert message, "the refusal says nothing"
        return False
    return True


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
