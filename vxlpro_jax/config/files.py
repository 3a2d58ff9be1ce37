"""Loads config files: Python files whose `get_config` returns the fields that a run sets."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vxlpro_jax.utils.errors import InputError

_MISTAKES = (
    *(AttributeError, ImportError, KeyError, NameError, OSError, SyntaxError, TypeError),
    ValueError,
)


class ConfigFile(NamedTuple):
    """Attributes: `path` of the file, and `values`, the nested dict that it sets."""

    path: Path
    values: dict[str, Any]


def load_config_file(name: str) -> ConfigFile:
    """Runs `get_config` of `FILE.py`, or `get_config(ARG)` of `FILE.py:ARG`.

    A `configs/NAME.py` that the working directory lacks is the one that is installed.

    Raises:
        InputError: the file does not exist, or it fails.
    """
    match = re.fullmatch(r"(.*?\.py)(?::(.*))?", name)
    file, argument = match.groups() if match else (name, None)
    path = find_config_file(file)
    try:
        module = load_python_file(path)
        values = module.get_config(*([] if argument is None else [argument]))
    except _MISTAKES as error:
        raise InputError(f"Config file {path}: {_reason(error)}") from error
    if not isinstance(values, Mapping):
        values = values.to_dict()
    return ConfigFile(path, dict(values))


def find_config_file(file: str) -> Path:
    """Returns the file itself or, for `configs/NAME.py`, the installed one.

    Raises:
        InputError: there is neither.
    """
    here = Path(file).expanduser()
    if here.is_file():
        return here.absolute()
    if here.parts[:-1] != ("configs",):
        raise InputError(f"Config file {here.absolute()} does not exist: check --config.")
    spec = importlib.util.find_spec("configs")
    installed = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    for folder in installed:
        if (folder / here.name).is_file():
            return folder / here.name
    places = ", ".join(str(folder) for folder in (here.parent.absolute(), *installed))
    raise InputError(f"Config file {here.name} is in none of {places}: check --config.")


def load_python_file(path: Path) -> Any:
    """Executes a Python file that the user named, and returns its module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _reason(error: Exception) -> str:
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    known = isinstance(error, ValueError | OSError) and not isinstance(error, UnicodeError)
    return message if known else f"{type(error).__name__}: {message}"
