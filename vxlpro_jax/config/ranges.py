"""Checks of config values that a field's type cannot express."""

import dataclasses
import math
from typing import Any

from vxlpro_jax.utils.errors import InputError

FLOAT_TYPES = ("float32", "bfloat16", "float16", "float64")
LARGEST_SEED = 2**32 - 1
LARGEST_COUNT = 2**31 - 1  # Steps and positions are int32 on devices.
MOST_PROCESSES = 4096


def check_at_least(config: Any, least: float, *names: str) -> None:
    """Refuses values below `least`, and those that are not finite.

    Raises:
        InputError: a field of the dataclass `config` is out of its range; the message names it.
    """
    for name in names:
        value = getattr(config, name)
        if not least <= value < math.inf:
            raise _wrong(config, name, f"{least:g} or more")


def check_at_most(config: Any, most: int, *names: str) -> None:
    """Refuses values above `most`.

    Raises:
        InputError: as in `check_at_least`.
    """
    for name in names:
        if getattr(config, name) > most:
            raise _wrong(config, name, f"{most} or less")


def check_share(config: Any, *names: str) -> None:
    """Refuses values outside of [0, 1].

    Raises:
        InputError: as in `check_at_least`.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise _wrong(config, name, "in [0, 1]")


def check_seed(config: Any) -> None:
    """Refuses a `seed` that a random generator does not accept.

    Raises:
        InputError: it is not in [0, 2**32).
    """
    if not 0 <= config.seed <= LARGEST_SEED:
        raise _wrong(config, "seed", f"in [0, {LARGEST_SEED}]")


def check_float_type(config: Any, *names: str, also: tuple[str, ...] = ()) -> None:
    """Refuses names that are neither floating-point types nor one of `also`.

    Raises:
        InputError: as in `check_at_least`.
    """
    for name in names:
        if getattr(config, name) not in (*FLOAT_TYPES, *also):
            raise _wrong(config, name, f"one of {', '.join(FLOAT_TYPES)}")


def _wrong(config: Any, name: str, wanted: str) -> InputError:
    kind = type(config).__name__.removesuffix("Config").lower()
    group = "" if kind == "train" else f"{kind}."
    assert name in {field.name for field in dataclasses.fields(config)}
    return InputError(f"config.{group}{name} must be {wanted}, but is {getattr(config, name)!r}.")
