"""What can be wrong with one file of a data set, and what is wrong with the program instead."""

import functools
from typing import Literal

from vxlpro_jax.utils.errors import InputError

Kind = Literal[
    "missing",  # no such file
    "unreadable",  # the file system or the network says no
    "empty",  # no bytes, or a folder without frames
    "no_video",  # sound or data alone; an array of another shape
    "no_frames",  # nothing that decodes
    "cut_off",  # ends before the length that it declares
    "damaged",  # not to be parsed: broken, or no video or picture at all
    "too_large",  # more pixels or memory than is safe
    "timeout",  # took longer than its limit; the process that read it was killed
    "crashed",  # took the process that read it down with it
]


class ProgramError(RuntimeError):
    """A mistake of this program, or a library that does not do what it is expected to.

    It is never counted as a bad file: it ends the run, with a traceback and exit code 1.
    """


class BadFile(InputError):
    """A video or picture that cannot be used; `kind` is a stable word to count such files by."""

    def __init__(self, message: str, *, kind: Kind):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self):
        return functools.partial(BadFile, kind=self.kind), self.args
