"""Types and ranges of config fields, whether a config file or a model's config.json sets them.

The upper limits of a model's sizes are far above any model that is trained, yet small enough that a
wrong number is refused before anything of that size is allocated.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from vxlpro_jax.utils.errors import InputError, short_repr

LARGEST_SEED = 2**32 - 1
_LARGEST_COUNT = 2**31 - 1  # Steps and positions are int32 on devices.


class Limits(NamedTuple):
    """Attributes: `kind` of the value, the inclusive ends `low` and `high` of a number's range, and
    the only values that a string may have.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()


_ANY_BOOL = Limits(bool)
_POSITIONS = Limits(int, 1, 2**30)
_SHARE = Limits(float, 0, 1)
_FLOAT_TYPES = ("float32", "bfloat16", "float16", "float64")

# By the dotted path of a field in `TrainConfig`.
LIMITS = {
    "model.vision.width": Limits(int, 32, 2**16),
    "model.vision.depth": Limits(int, 1, 1024),
    "model.vision.num_heads": Limits(int, 1, 1024),
    "model.vision.mlp_width": Limits(int, 1, 2**20),
    "model.vision.image_size": Limits(int, 1, 2**14),
    "model.vision.patch_size": Limits(int, 1, 2**10),
    "model.vision.norm_eps": Limits(float, 1e-20, 1.0),
    "model.dts.grid": Limits(int, 1, 256),
    "model.decoder.vocab_size": Limits(int, 1, 2**24),
    "model.decoder.width": Limits(int, 8, 2**16),
    "model.decoder.depth": Limits(int, 1, 1024),
    "model.decoder.num_heads": Limits(int, 1, 1024),
    "model.decoder.num_kv_heads": Limits(int, 1, 1024),
    "model.decoder.mlp_width": Limits(int, 1, 2**20),
    "model.decoder.rope_theta": Limits(float, 1.01, 1e15),
    "model.decoder.norm_eps": Limits(float, 1e-20, 1.0),
    "model.decoder.tied_head": _ANY_BOOL,
    "model.decoder.max_positions": _POSITIONS,
    "model.decoder.yarn.factor": Limits(float, 1.0, 2.0**20),
    "model.decoder.yarn.original_positions": _POSITIONS,
    "model.decoder.yarn.attention_factor": Limits(float, 0.0, 1e3),
    "model.decoder.yarn.beta_fast": Limits(float, 1e-3, 1e6),
    "model.decoder.yarn.beta_slow": Limits(float, 1e-3, 1e6),
    "model.decoder.yarn.truncate": _ANY_BOOL,
    "model.pool": Limits(int, 1, 256),
    "recot.decoder_width": Limits(int, 1, 2**16),
    "recot.decoder_depth": Limits(int, 0, 1024),
    "recot.decoder_heads": Limits(int, 1, 1024),
    "recot.difference_weight": Limits(float, 0),
    "data.max_text_tokens": Limits(int, 0),
    "data.fps": Limits(float, 0),
    "data.frames_per_sample": Limits(int, 0),
    "data.num_workers": Limits(int, 0, 4096),
    "data.seconds_per_file": Limits(float, 1e-3),
    "data.bad_sample_quota": _SHARE,
    "optim.lr": Limits(float, 0),
    "optim.warmup": _SHARE,
    "optim.eps": Limits(float, 0),
    "optim.weight_decay": Limits(float, 0),
    "optim.momentum_dtype": Limits(str, choices=("", *_FLOAT_TYPES)),
    "seed": Limits(int, 0, LARGEST_SEED),
    "total_steps": Limits(int, 1, _LARGEST_COUNT),
    "checkpoint_every": Limits(int, 1),
    "eval_every": Limits(int, 0),
    "log_every": Limits(int, 1),
    "pose_max_frames": Limits(int, 0, _LARGEST_COUNT),
    "param_dtype": Limits(str, choices=_FLOAT_TYPES),
    "compute_dtype": Limits(str, choices=_FLOAT_TYPES),
    "encode_microbatch": Limits(int, 0, _LARGEST_COUNT),
    "grad_accum_steps": Limits(int, 1),
}


def check_fields(config: Any, *, path: str) -> None:
    """Checks all fields of a config dataclass that have limits; `path` is its prefix, `data.`.

    Raises:
        InputError: a value has another type, is not finite, or is outside of its range.
    """
    for field in dataclasses.fields(config):
        if (name := f"{path}{field.name}") in LIMITS:
            check(name, getattr(config, field.name), name=f"config.{name}")


def check(field: str, value: Any, *, name: str) -> None:
    """Checks the type and the range of a field's value.

    Args:
        field: dotted path of the field, `model.decoder.width`.
        value: its value.
        name: name of the field in the error message.

    Raises:
        InputError: the value has another type, is not finite, or is outside of the range.
    """
    limits = LIMITS[field]
    if not _fits(value, limits):
        raise InputError(f"{name} is {shown(value)}: expected {_expected(limits)}.")


def shown(value: Any) -> str:
    """Formats a value of a JSON file for an error message, shortened to a few words."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return short_repr(value)


def _fits(value: Any, limits: Limits) -> bool:
    if limits.kind is bool or isinstance(value, bool):
        return limits.kind is bool and isinstance(value, bool)
    if limits.kind is str:
        return value in limits.choices
    kinds = (int, float) if limits.kind is float else (int,)
    if not isinstance(value, kinds) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    return limits.low <= value <= limits.high


def _expected(limits: Limits) -> str:
    if limits.kind is bool:
        return "true or false"
    if limits.kind is str:
        return f"one of {', '.join(choice or 'an empty text' for choice in limits.choices)}"
    number, form = ("a whole number", ",") if limits.kind is int else ("a number", "g")
    if limits.high == math.inf:
        return f"{number} of {limits.low:{form}} or more"
    return f"{number} from {limits.low:{form}} to {limits.high:{form}}"
