"""Types and ranges of the model's sizes, whether a command line or a config.json gives them.

The upper limits are far above any model that is trained, yet small enough that a wrong number is
refused before anything of that size is allocated.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from vxlpro_jax.utils.errors import InputError

_LONGEST_SHOWN = 60


class Limits(NamedTuple):
    """Attributes: `kind` of the value, and the `low` and `high` ends of its range, inclusive."""

    kind: type
    low: float = -math.inf
    high: float = math.inf


_ANY_BOOL = Limits(bool)
_POSITIONS = Limits(int, 1, 2**30)

# By the dotted path of a field in `ModelConfig`.
LIMITS = {
    "vision.width": Limits(int, 32, 2**16),
    "vision.depth": Limits(int, 1, 1024),
    "vision.num_heads": Limits(int, 1, 1024),
    "vision.mlp_width": Limits(int, 1, 2**20),
    "vision.image_size": Limits(int, 1, 2**14),
    "vision.patch_size": Limits(int, 1, 2**10),
    "vision.norm_eps": Limits(float, 1e-20, 1.0),
    "dts.grid": Limits(int, 1, 256),
    "decoder.vocab_size": Limits(int, 1, 2**24),
    "decoder.width": Limits(int, 8, 2**16),
    "decoder.depth": Limits(int, 1, 1024),
    "decoder.num_heads": Limits(int, 1, 1024),
    "decoder.num_kv_heads": Limits(int, 1, 1024),
    "decoder.mlp_width": Limits(int, 1, 2**20),
    "decoder.rope_theta": Limits(float, 1.01, 1e15),
    "decoder.norm_eps": Limits(float, 1e-20, 1.0),
    "decoder.tied_head": _ANY_BOOL,
    "decoder.max_positions": _POSITIONS,
    "decoder.yarn.factor": Limits(float, 1.0, 2.0**20),
    "decoder.yarn.original_positions": _POSITIONS,
    "decoder.yarn.attention_factor": Limits(float, 0.0, 1e3),
    "decoder.yarn.beta_fast": Limits(float, 1e-3, 1e6),
    "decoder.yarn.beta_slow": Limits(float, 1e-3, 1e6),
    "decoder.yarn.truncate": _ANY_BOOL,
    "pool": Limits(int, 1, 256),
}


def check_fields(config: Any, *, path: str) -> None:
    """Checks all fields of a dataclass that have limits; `path` is its dotted prefix, `decoder.`.

    Raises:
        InputError: a value has another type, is not finite, or is outside of its range.
    """
    for field in dataclasses.fields(config):
        if (name := f"{path}{field.name}") in LIMITS:
            check(name, getattr(config, field.name), name=name)


def check(field: str, value: Any, *, name: str) -> None:
    """Checks the type and the range of a field's value.

    Args:
        field: dotted path of the field, `decoder.width`.
        value: its value.
        name: name of the field in the error message.

    Raises:
        InputError: the value has another type, is not finite, or is outside of the range.
    """
    limits = LIMITS[field]
    if _fits(value, limits):
        return
    raise InputError(f"{name} is {shown(value)}: expected {_expected(limits)}.")


def shown(value: Any) -> str:
    """Formats a value for an error message: as JSON, shortened to a few words."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits.
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _fits(value: Any, limits: Limits) -> bool:
    if limits.kind is bool or isinstance(value, bool):
        return limits.kind is bool and isinstance(value, bool)
    kinds = (int, float) if limits.kind is float else (int,)
    return isinstance(value, kinds) and limits.low <= value <= limits.high


def _expected(limits: Limits) -> str:
    if limits.kind is bool:
        return "true or false"
    if limits.kind is int:
        return f"a whole number from {limits.low:,} to {limits.high:,}"
    return f"a number from {limits.low:g} to {limits.high:g}"
