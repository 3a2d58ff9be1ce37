"""Names of config fields and values in earlier releases, which are still read."""

from collections.abc import Mapping
from typing import Any

from vxlpro_jax.utils.errors import InputError

# Fields of `TrainConfig` by their dotted path.
RENAMED_FIELDS = {
    "task": "objective",
    "accumulate": "grad_accum_steps",
    "groups_at_once": "encode_microbatch",
    "skip_to_frames": "pose_max_frames",
    "data.workdir_cache": "data.cache_dir",
}
_REMAT = {False: "none", True: "all", "false": "none", "true": "all"}
RENAMED_VALUES: dict[str, dict[Any, str]] = {
    "objective": {"answer": "sft"},
    "model.decoder.remat": _REMAT,
    "model.selector_gradient": {"gates": "straight_through"},
    "model.vision.remat": _REMAT,
}


def current_path(path: str) -> str:
    """Returns the present dotted path of a field that may have an earlier name."""
    return RENAMED_FIELDS.get(path, path)


def migrate(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a run with every earlier name and value replaced by the present one.

    Args:
        values: nested mapping of a `TrainConfig`.

    Raises:
        InputError: a field is set under both names.
    """
    return _migrate(values, path="")


def _migrate(values: Mapping[str, Any], *, path: str) -> dict[str, Any]:
    migrated: dict[str, Any] = {}
    for key, value in values.items():
        old = f"{path}{key}"
        new = current_path(old)
        name = new.removeprefix(path)
        if name in migrated or (new != old and name in values):
            raise InputError(
                f"config.{old} is the earlier name of config.{new}, and both are set: keep"
                f" config.{new} alone."
            )
        migrated[name] = _current_value(value, path=new)
    return migrated


def _current_value(value: Any, *, path: str) -> Any:
    if isinstance(value, Mapping):
        return _migrate(value, path=f"{path}.")
    renamed = RENAMED_VALUES.get(path, {})
    return renamed.get(value, value) if isinstance(value, str | bool) else value
