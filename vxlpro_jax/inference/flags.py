"""Flags of the commands that ask a model: what its decoder reads, in how much memory."""

import argparse
import typing
from typing import Any

from vxlpro_jax.inference.memory_plan import KeepStamps, Options
from vxlpro_jax.models.kv_cache import CacheType

_DTYPES = ("float32", "bfloat16", "float16")
_FLAGS = ("keep_stamps", "max_context", "kv_cache", "hbm_gib")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those that the commands share."""
    add = parser.add_argument_group("decoder").add_argument
    stamps = "all time stamps, or those of groups of which a visual token is kept"
    add("--keep_stamps", choices=typing.get_args(KeepStamps), default="all", help=stamps)
    context = "positions of prompt and answer; if not given: what the model was made for"
    add("--max_context", type=int, help=context)
    kinds = typing.get_args(CacheType)
    add("--kv_cache", choices=kinds, default="model", help="type of the keys and values kept")
    add("--hbm_gib", type=float, help="memory to use, GiB; if not given: all of the device's")
    add("--dtype", choices=_DTYPES, help="if not given: as stored, on a CPU float32")


def options_of(args: argparse.Namespace, **more: Any) -> Options:
    """How to answer, as the flags say; `more` are further fields.

    Raises:
        InputError: a value that cannot be.
    """
    return Options(**{name: getattr(args, name) for name in _FLAGS}, **more)


def changed(args: argparse.Namespace) -> list[str]:
    """The names of the flags that are not at their defaults."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return [name for name, x in settings_of(args).items() if x != parser.get_default(name)]


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as JSON, for what only goes on under the same."""
    return {name: getattr(args, name) for name in (*_FLAGS, "dtype")}
