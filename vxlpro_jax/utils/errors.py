"""Errors that end a command with one sentence."""

import reprlib
from typing import Any

_MOST_CHARACTERS = 60


class InputError(ValueError):
    """A user's mistake, described in one sentence. Commands print it and exit with code 2."""


class Failure(Exception):
    """A failure other than a user's mistake. Commands print its sentence and exit with `code`."""

    code = 1


class LostProcess(Failure):
    """Processes of the run ended or never connected; the sentence names them."""

    code = 80


class _Shortener(reprlib.Repr):
    """A `repr` that reads only the beginning of a value, however large or deep it is."""

    def repr_str(self, x: str, level: int) -> str:
        del level
        return repr(x[:_MOST_CHARACTERS])

    def repr_int(self, x: int, level: int) -> str:
        del level
        return repr(x) if x.bit_length() < 1000 else f"a number of {x.bit_length()} bits"


_shortener = _Shortener()
_shortener.maxlevel = 4
for _kind in ("list", "tuple", "dict", "set", "frozenset", "array", "deque"):
    setattr(_shortener, f"max{_kind}", 6)


def short_repr(value: Any) -> str:
    """Returns `repr(value)`, truncated to 60 characters."""
    text = _shortener.repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
