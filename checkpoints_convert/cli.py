"""Helpers that the converter's commands share. Imports no JAX, so that --help is quick."""

import os
import sys
from collections.abc import Callable, Sequence

from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError

# Flag names of earlier versions, which scripts may still use.
_OLD_NAMES = {"--src": "--checkpoint", "--dst": "--out"}


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main` on the command line; a mistake or a full disk gives a sentence and exit code 2.

    The conversion needs no accelerator, so it leaves them to other processes.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"

    def call() -> int | None:
        try:
            return main(sys.argv[1:])
        except OSError as error:
            raise InputError(f"{error}.") from error

    cli.run(call)


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with old flag names (`--src`, `--dst`) replaced by the new ones."""
    parts = (argument.partition("=") for argument in arguments)
    return [_OLD_NAMES.get(flag, flag) + equals + value for flag, equals, value in parts]
