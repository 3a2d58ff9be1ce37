"""Command lines of commands that read a config file."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags

from vxlpro_jax.config import schema_table
from vxlpro_jax.config.files import load_config_file
from vxlpro_jax.config.migration import current_path, migrate
from vxlpro_jax.config.parsing import from_mapping, override
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.utils.errors import InputError

Define = Callable[[flags.FlagValues], None]

_HELP = ("--help", "-help", "-h", "--helpfull")
_WIDTH = 100


class ConfigFlags(NamedTuple):
    """The parsed command line of a command that reads a config file.

    Attributes:
        values: nested dict of the file, with the command line's values in it.
        file: path of the file.
        flags: the command's own flags.
    """

    values: dict[str, Any]
    file: Path
    flags: flags.FlagValues


class Run(NamedTuple):
    """The run that a command line describes.

    Attributes:
        config: config of the run.
        name: name of its config file and preset, `stage2-tiny`.
        flags: the command's own flags.
    """

    config: TrainConfig
    name: str
    flags: flags.FlagValues


def read_run(argv: Sequence[str], *, define: Define, doc: str | None = None) -> Run:
    """Reads `--config=FILE[:ARG]`, `--config.path=value` and the flags that `define` adds.

    Args:
        argv: name of the command, and the words of its command line.
        define: adds the command's own flags.
        doc: docstring of the command, which starts the text of `--help`.

    Raises:
        InputError: a flag or a key is unknown, or a value does not fit.
        SystemExit: `--help` was asked for and is printed.
    """
    found = read_config_flags(argv, schema=TrainConfig, define=define, doc=doc)
    preset = found.values.get("model", {}).get("preset", "tiny")
    config = from_mapping(TrainConfig, found.values)
    return Run(config, f"{found.file.stem}-{preset}", found.flags)


def read_config_flags(
    argv: Sequence[str],
    *,
    schema: type,
    define: Define,
    doc: str | None = None,
    default_file: str = "",
) -> ConfigFlags:
    """Reads `--config=FILE[:ARG]`, `--config.path=value` and the flags that `define` adds.

    Args:
        argv: name of the command, and the words of its command line.
        schema: dataclass of the fields that `--config.path` may set.
        define: adds the command's own flags.
        doc: docstring of the command, which starts the text of `--help`.
        default_file: config file if the command line names none; empty if it must name one.

    Raises:
        InputError: a flag or a key is unknown, a value does not fit, or the file cannot be loaded.
        SystemExit: `--help` was asked for and is printed.
    """
    values = flags.FlagValues()
    define(values)
    for name in values:
        values[name].allow_overwrite = False  # With two values, one would be ignored.
    if any(word in _HELP for word in argv[1:]):
        _print_help(values, schema=schema, doc=doc, default_file=default_file)
    words = _Words.split(argv)
    try:
        rest = values(words.others)[1:]
    except flags.Error as error:
        raise InputError(f"Command line: {str(error).strip().splitlines()[-1].strip()}") from error
    file = words.file or default_file
    if rest or not file:
        raise InputError(
            "Command line: give --config=configs/stage2.py[:PRESET,option=value] and, if you like,"
            f" --config.path=value; got {' '.join(argv[1:]) or 'nothing'}."
        )
    loaded = load_config_file(file)
    fields = migrate(loaded.values) if schema is TrainConfig else loaded.values
    for path, text in words.overrides:
        fields = override(schema, fields, path=path, text=text)
    return ConfigFlags(fields, loaded.path, values)


class _Words(NamedTuple):
    """The words of a command line, grouped by what they set."""

    file: str
    overrides: list[tuple[str, str]]
    others: list[str]

    @classmethod
    def split(cls, argv: Sequence[str]) -> "_Words":
        """Sorts the words into these groups; a value follows `=` or is the next word."""
        files, overrides, others = [], [], [argv[0]]
        words = iter(argv[1:])
        for word in words:
            name, equals, value = word.lstrip("-").partition("=")
            if not word.startswith("-") or name.partition(".")[0] != "config":
                others.append(word)
                continue
            if not equals:
                value = next(words, None)
                if value is None:
                    raise InputError(f"Command line: {word} lacks its value, {word}=VALUE.")
            if name == "config":
                files.append(value)
            else:
                overrides.append((name.removeprefix("config."), value))
        _refuse_repeated(["config" for _ in files])
        _refuse_repeated([f"config.{current_path(path)}" for path, _ in overrides])
        return cls("".join(files), overrides, others)


def _refuse_repeated(names: Sequence[str]) -> None:
    """Refuses flags that are given twice, because one of the values would be ignored."""
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Command line: --{name} is given more than once: keep one of them.")


def _print_help(
    values: flags.FlagValues, *, schema: type, doc: str | None, default_file: str
) -> NoReturn:
    print((doc or "").strip())
    print("\nFlags:")
    print(f"  --config={default_file or 'FILE.py[:ARG]'}")
    print(_indented("Config file; configs/NAME.py is the installed one if there is no such file."))
    for line in _own_flags(values):
        print(line)
    print("\nConfig fields, with their defaults where the config file sets nothing:")
    print(schema_table.text(schema, width=_WIDTH))
    raise SystemExit(0)


def _own_flags(values: flags.FlagValues) -> Iterator[str]:
    for name in values:
        flag = values[name]
        default = "" if flag.default is None else flag.default
        choices = getattr(flag.parser, "enum_values", None)
        kind = " | ".join(choices) if choices else flag.flag_type()
        yield f"  --{name}={default}  ({kind})"
        yield _indented(flag.help)


def _indented(text: str) -> str:
    indent = " " * 6
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
