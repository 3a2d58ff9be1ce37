"""Errors that end a command with one sentence."""


class InputError(ValueError):
    """A user's mistake, described in one sentence. Commands print it and exit with code 2."""


class Failure(Exception):
    """A failure that is no user's mistake. Commands print its sentence and exit with `code`."""

    code = 1


class LostProcess(Failure):
    """Processes of the run ended or never connected. The sentence names them."""

    code = 80
