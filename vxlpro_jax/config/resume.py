"""What may change when a run is resumed in its folder, declared once for every config field."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from vxlpro_jax.config.schema import TrainConfig

Rule = Literal["free", "noted", "fixed"]

# These do not change what is computed.
FREE = frozenset(
    {
        "checkpoint_every",
        "data.bad_sample_quota",
        "data.cache_dir",
        "data.eval_path",
        "data.feature_cache",
        "data.num_workers",
        "data.seconds_per_file",
        "encode_microbatch",
        "eval_every",
        "log_every",
        "mesh.context",
        "mesh.data",
        "mesh.fsdp",
        "mesh.num_slices",
        "mesh.tensor",
        "model.attention",
        "model.decoder.remat",
        "model.vision.remat",
    }
)
# These do: the remaining steps differ from those of a run that had the new value from its start.
# Data may move; whether its records are the same is checked when the checkpoint is read.
NOTED = frozenset(
    {
        "data.image_root",
        "data.path",
        "data.video_root",
        "grad_accum_steps",
        "init_from",
        "optim.clip_norm",
        "optim.lr",
        "optim.rounding",
        "total_steps",
    }
)
_LONGEST_VALUE = 60


class Change(NamedTuple):
    """Attributes: dotted path of a config `field`, its value in the folder, and the value `now`."""

    field: str
    was: Any
    now: Any

    @property
    def rule(self) -> Rule:
        """Rule of the change: without effect (free), allowed but reported (noted), or refused."""
        if self.field in FREE:
            return "free"
        return "noted" if self.field in NOTED else "fixed"

    def __str__(self) -> str:
        """Describes the change for messages."""
        return f"config.{self.field} was {_short(self.was)} and is {_short(self.now)}"


def changes(was: TrainConfig, now: TrainConfig) -> list[Change]:
    """Returns the fields whose values differ, in the order of the config."""
    old, new = dict(_leaves(was)), dict(_leaves(now))
    return [Change(path, old[path], new[path]) for path in old if old[path] != new[path]]


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every field that is not itself a config dataclass, with its dotted path."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
