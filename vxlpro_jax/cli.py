"""What commands share: flags with a config file, progress, and how they end."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from absl import flags
from tqdm import tqdm

from vxlpro_jax.config import InputError


def run(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its code; a user's mistake is one sentence and code 2."""
    try:
        code = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or 0)


class Given(NamedTuple):
    """Attributes: `config`, a nested dict, or None without one; `rest`, words that are no flags."""

    config: dict[str, Any] | None
    rest: list[str]


def read_flags(values: flags.FlagValues, argv: list[str], *, config: flags.FlagHolder) -> Given:
    """Parses `argv` into `values`, of which `config` names a config file.

    Raises:
        InputError: a flag or a key is unknown, a value does not fit, or the file cannot be loaded.
    """
    try:
        rest = values(argv)
        # Only here a file that cannot be loaded is told.
        return Given(None if config.value is None else config.value.to_dict(), rest[1:])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"Command line: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What the flags object to: ml_collections wraps KeyErrors and puts tracebacks in front."""
    inner = error.args[0] if error.args else error
    cause = inner if isinstance(inner, KeyError) else error
    if isinstance(cause, KeyError):
        return "unknown key " + ": ".join(str(cause.args[0]).splitlines())
    return str(error).strip().splitlines()[-1].strip()


def progress(items: Iterable, *, name: str, unit: str) -> Iterable:
    """The items, with a bar on a terminal and a line every half minute otherwise."""
    return tqdm(items, desc=name, unit=f" {unit}", mininterval=0.1 if sys.stderr.isatty() else 30)
