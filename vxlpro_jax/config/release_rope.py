"""The rotary embedding in a config.json, in the forms that versions of transformers write.

Up to version 4 a config has `rope_theta` and, where positions are rescaled, `rope_scaling`; from
version 5 on `rope_parameters` holds both. The meaning of each key is that of transformers' Qwen2.
"""

import math
from collections.abc import Mapping
from typing import Any

from vxlpro_jax.config import limits
from vxlpro_jax.utils.errors import InputError

KEYS = ("rope_scaling", "rope_parameters", "original_max_position_embeddings")

_BLOCKS = ("rope_scaling", "rope_parameters")
_YARN_FIELDS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_positions",
    "attention_factor": "attention_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
}
_YARN_KEYS = {*_YARN_FIELDS, "mscale", "mscale_all_dim"}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the decoder's `rope_theta` and `yarn` from a config.json; omits those it does not give.

    Raises:
        InputError: the kind of rescaling is not implemented, a key is unknown or out of its range,
            or two places contradict each other.
    """
    blocks = {name: _block(config, name) for name in _BLOCKS if config.get(name) is not None}
    thetas = {f"{name}.rope_theta": block.get("rope_theta") for name, block in blocks.items()}
    thetas = {"rope_theta": config.get("rope_theta")} | thetas
    yarns = {name: _yarn(block, config, name) for name, block in blocks.items()}
    found = {
        "rope_theta": _agreed({name: x for name, x in thetas.items() if x is not None}),
        "yarn": _agreed(yarns),
    }
    return {field: value for field, value in found.items() if value is not None}


def write(*, rope_theta: float, yarn: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a config.json in a form that transformers 4 and 5 both read.

    Args:
        rope_theta: base of the frequencies.
        yarn: fields of `YarnConfig`.
    """
    written: dict[str, Any] = {"rope_theta": rope_theta}
    if yarn["factor"] > 1 or yarn["attention_factor"] not in (0, 1):
        block = {key: yarn[field] for key, field in _YARN_FIELDS.items()}
        if not block["attention_factor"]:
            del block["attention_factor"]
        written["rope_scaling"] = {"type": "yarn", "rope_type": "yarn", **block}
    return written


def _block(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    block = config[name]
    if not isinstance(block, Mapping):
        raise InputError(f"config.json: {name} is {limits.shown(block)}: expected an object.")
    kinds = {key: block[key] for key in ("rope_type", "type") if block.get(key) is not None}
    kind = _agreed({f"{name}.{key}": value for key, value in kinds.items()}) or "default"
    known = {"default": {"rope_theta"}, "yarn": {"rope_theta", *_YARN_KEYS}}
    if not isinstance(kind, str) or kind not in known:
        raise InputError(
            f'config.json: {name} asks for {limits.shown(kind)}, but only YaRN ("yarn") and'
            ' "default" are implemented: this checkpoint would be computed wrongly.'
        )
    rest = {
        key: x for key, x in block.items() if key not in ("rope_type", "type") and x is not None
    }
    if rest.get("partial_rotary_factor") == 1:
        del rest["partial_rotary_factor"]
    if unknown := sorted(rest.keys() - known[kind]):
        raise InputError(
            f"config.json: {name} of type {kind!r} has {limits.shown(', '.join(unknown))}, which"
            " is not implemented for this type: remove it if the weights were trained without it."
        )
    if "rope_theta" in rest:
        limits.check(
            "model.decoder.rope_theta", rest["rope_theta"], name=f"config.json: {name}.rope_theta"
        )
    return {"type": kind, **rest}


def _yarn(block: Mapping[str, Any], config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Returns the fields of `YarnConfig`; None if the frequencies are not rescaled."""
    if block["type"] != "yarn":
        return None
    values = {key: block[key] for key in _YARN_KEYS if key in block}
    original = _agreed(
        {
            "original_max_position_embeddings": config.get("original_max_position_embeddings"),
            f"{name}.original_max_position_embeddings": values.get(
                "original_max_position_embeddings"
            ),
        }
    )
    longest: Any = config.get("max_position_embeddings")
    if (positions := longest if original is None else original) is not None:
        values["original_max_position_embeddings"] = positions
    if "factor" not in values and _is_positive(longest, original):
        values["factor"] = longest / original
    if "factor" not in values:
        raise InputError(f"config.json: {name} of type 'yarn' lacks its factor.")
    scales = [values.pop(key, None) for key in ("mscale", "mscale_all_dim")]
    fields = {_YARN_FIELDS[key]: value for key, value in values.items()}
    for key, field in _YARN_FIELDS.items():
        if field in fields:
            limits.check(
                f"model.decoder.yarn.{field}", fields[field], name=f"config.json: {name}.{key}"
            )
    if "attention_factor" not in fields and all(scale is not None for scale in scales):
        fields["attention_factor"] = _attention_factor(fields["factor"], scales, name=name)
    return fields


def _attention_factor(factor: float, scales: list[Any], *, name: str) -> float:
    if any(scale != 0 and not _is_positive(scale) for scale in scales):
        raise InputError(f"config.json: {name}.mscale and mscale_all_dim must be positive numbers.")
    if not all(scales):
        return 0.0
    above, below = (1 + 0.1 * scale * math.log(factor) for scale in scales)
    return above / below


def _is_positive(*values: Any) -> bool:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    return numbers and all(0 < x < 1e30 for x in values)


def _agreed(places: Mapping[str, Any]) -> Any:
    """Returns the value that the places agree on, ignoring those without one; None if all lack it.

    Raises:
        InputError: two places give different values.
    """
    given = [(name, value) for name, value in places.items() if value is not None]
    for name, value in given[1:]:
        first, other = given[0]
        if value != other:
            raise InputError(
                f"config.json contradicts itself: {first} is {limits.shown(other)}, but {name} is"
                f" {limits.shown(value)}: keep the one that the weights were trained with."
            )
    return given[0][1] if given else None
