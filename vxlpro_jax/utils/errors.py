"""Errors that end a command with one sentence."""


class InputError(ValueError):
    """A user's mistake, described in one sentence; commands print it and exit with code 2."""


class Failure(Exception):
    """Ends a command with one sentence and the exit code `code`, where the user made no mistake."""

    code = 1


class LostProcess(Failure):
    """Processes of the run died or never joined; the sentence names them."""

    code = 80
