"""Faults of files in a data set, and faults of the program."""

import functools
from typing import Literal

from vxlpro_jax.utils.errors import InputError

FaultKind = Literal[
    "missing",  # The file does not exist.
    "unreadable",  # The file system or network refuses it.
    "empty",  # The file has no bytes, or the folder no frames.
    "no_video",  # It has only sound or data, or an array of another shape.
    "no_frames",  # No frame decodes.
    "cut_off",  # It ends before its declared length.
    "damaged",  # It cannot be parsed: it is broken, or not a video or picture at all.
    "too_large",  # It needs more pixels or memory than is safe.
    "timeout",  # Decoding took longer than the limit, so the decoder was killed.
    "crashed",  # Decoding crashed the decoder process.
]


class ProgramError(RuntimeError):
    """A fault of this program, or of a library whose interface is not the expected one.

    It is never counted as a bad file: it ends the run with a traceback and exit code 1.
    """


class BadFile(InputError):
    """A video or picture that cannot be used; `kind` is a stable word for counting such files."""

    def __init__(self, message: str, *, kind: FaultKind):
        super().__init__(message)
        self.kind: FaultKind = kind

    def __reduce__(self):
        return functools.partial(BadFile, kind=self.kind), self.args
