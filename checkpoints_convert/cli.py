"""What the commands of the converter share."""

import sys
from collections.abc import Callable, Sequence

import jax

from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main` on the command line; a mistake or a full disk is a sentence and exit code 2.

    The conversion needs no accelerator, so it takes none from whoever uses one.
    """
    jax.config.update("jax_platforms", "cpu")

    def told() -> int | None:
        try:
            return main(sys.argv[1:])
        except OSError as error:
            raise InputError(f"{error}.") from error

    cli.run(told)
