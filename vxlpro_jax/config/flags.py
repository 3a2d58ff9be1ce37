"""Command-line flags of commands that read a config file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from vxlpro_jax.config.parsing import from_mapping
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.utils.errors import InputError


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


class Run(NamedTuple):
    """Attributes.

    config: the run's.
    name: of its config file and preset, `stage2-tiny`.
    flags: the command's other flags.
    """

    config: TrainConfig
    name: str
    flags: flags.FlagValues


def read_run(argv: list[str], *, define: Callable[[flags.FlagValues], None]) -> Run:
    """Reads `--config=FILE[:ARG]`, `--config.path=value` and the flags that `define` adds.

    Raises:
        InputError: a flag or a key is unknown, or a value does not fit.
    """
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", lock_config=True, flag_values=values, sys_argv=argv
    )
    define(values)
    given, rest = read_flags(values, argv, config=config)
    if rest or given is None:
        raise InputError(
            "Command line: give --config=configs/stage2.py[:PRESET,option=value] and, if you like,"
            f" --config.path=value; got {' '.join(argv[1:]) or 'nothing'}."
        )
    file = Path(config_flags.get_config_filename(values["config"])).stem
    name = f"{file}-{given['model']['preset']}"
    return Run(from_mapping(TrainConfig, given), name, values)


def _reason(error: Exception) -> str:
    """What the flags object to: ml_collections wraps KeyErrors and puts tracebacks in front."""
    inner = error.args[0] if error.args else error
    cause = inner if isinstance(inner, KeyError) else error
    if isinstance(cause, KeyError):
        return "unknown key " + ": ".join(str(cause.args[0]).splitlines())
    return str(error).strip().splitlines()[-1].strip()
