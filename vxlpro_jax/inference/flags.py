"""Flags of the commands that question a model: decoder options, sampling and memory limits."""

import argparse
import dataclasses
import math
import typing
from typing import Any

from vxlpro_jax.config.schema import CacheType, InferenceConfig
from vxlpro_jax.inference.options import KeepStamps, Options
from vxlpro_jax.utils.errors import InputError

_DTYPES = ("float32", "bfloat16", "float16")
_FLAGS = ("keep_stamps", "max_context", "kv_cache", "hbm_gib")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that these commands share."""
    add = parser.add_argument_group("decoder").add_argument
    shown = "(default: %(default)s)"
    stamps = f"time stamps to read: all, or only those of groups that keep a visual token {shown}"
    add("--keep_stamps", choices=typing.get_args(KeepStamps), default="all", help=stamps)
    context = "maximum number of positions of prompt and answer (default: the model's)"
    add("--max_context", type=int, help=context)
    kinds = typing.get_args(CacheType)
    add("--kv_cache", choices=kinds, default="model", help=f"dtype of the key/value cache {shown}")
    add("--hbm_gib", type=float, help="maximum device memory in GiB (default: all)")
    add("--dtype", choices=_DTYPES, help="compute dtype (default: as stored; float32 on a CPU)")


def add_inference_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each field of `InferenceConfig`; the default is the model folder's value."""
    add = parser.add_argument_group("sampling of frames and tokens").add_argument
    unset = "(default: the model folder's setting)"
    add("--max_frames", type=int, help=f"maximum number of frames sampled per video {unset}")
    fps = f"frames sampled per second; 0 samples uniformly spaced frames {unset}"
    add("--fps", type=float, help=fps)
    add("--keep_ratio", type=float, help=f"share of the visual tokens to keep {unset}")


def inference_config_of(args: argparse.Namespace, *, defaults: InferenceConfig) -> InferenceConfig:
    """Returns the values of the flags that were given, and `defaults` for the others.

    Raises:
        InputError: a value is out of its range.
    """
    names = [field.name for field in dataclasses.fields(InferenceConfig)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    _check(given)
    return dataclasses.replace(defaults, **given)


def _check(given: dict[str, Any]) -> None:
    if given.get("max_frames", 1) < 1:
        raise InputError(f"--max_frames is {given['max_frames']}: ask for at least one frame.")
    if not 0 <= given.get("fps", 0) < math.inf:
        raise InputError(f"--fps is {given['fps']}: it must be 0 or more.")
    if not 0 < given.get("keep_ratio", 1) <= 1:
        raise InputError(f"--keep_ratio is {given['keep_ratio']}: it must be in (0, 1].")


def options_of(args: argparse.Namespace, **more: Any) -> Options:
    """Returns the `Options` that the flags set; `more` sets further fields.

    Raises:
        InputError: a value is out of its range.
    """
    return Options(**{name: getattr(args, name) for name in _FLAGS}, **more)


def changed(args: argparse.Namespace) -> list[str]:
    """Returns the names of the flags that differ from their defaults."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return [name for name, x in settings_of(args).items() if x != parser.get_default(name)]


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the flags as JSON; work may be resumed only under the same values."""
    return {name: getattr(args, name) for name in (*_FLAGS, "dtype")}
