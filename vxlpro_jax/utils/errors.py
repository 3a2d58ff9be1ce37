"""Errors that end a command with one sentence."""

from vxlpro_jax.utils import errors


class InputError(ValueError):
    """A user's mistake, told in a sentence: commands print it and exit with code 2."""


class Failure(Exception):
    """Ends a command with a sentence, as a user's mistake does, and with a `code` of its own."""

    code = 1


class LostProcess(errors.Failure):
    """A sentence that names the processes that are gone, or did not come."""

    code = 80
