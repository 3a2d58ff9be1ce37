"""The command-line parser that every command uses."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError


class ArgumentParser(argparse.ArgumentParser):
    """Parses flags as argparse does, but refuses a repeated flag.

    A mistake is reported in one sentence on stderr, with exit code 2.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        """Accepts the arguments of `argparse.ArgumentParser`."""
        super().__init__(*args, **kwargs)
        for name in (None, "store"):
            self.register("action", name, _StoreOnce)

    def error(self, message: str) -> NoReturn:
        """Ends the command with the message."""
        sys.exit(cli.report_error(InputError(f"Command line: {message} (see --help).")))


class _StoreOnce(argparse.Action):
    """Stores a value; a second one is a mistake, because one of the two would be ignored."""

    _filled: argparse.Namespace | None = None

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if option_string and self._filled is namespace:
            raise argparse.ArgumentError(self, "given more than once: keep one of them")
        self._filled = namespace
        setattr(namespace, self.dest, values)
