"""Options of an answer."""

import dataclasses
import math
from typing import Any, Literal

from vxlpro_jax.config.limits import LARGEST_SEED
from vxlpro_jax.config.schema import CacheType
from vxlpro_jax.utils.errors import InputError

KeepStamps = Literal["all", "touched"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an answer.

    Attributes:
        keep_ratio: share of the visual tokens that the selector keeps, in (0, 1].
        temperature: sampling temperature; 0 takes the most likely id.
        top_p: cumulative probability of nucleus sampling; only the likeliest ids that together
            reach it are sampled.
        seed: seed of sampling.
        max_new_tokens: largest number of tokens in an answer.
        choices: texts, one of which the answer must be; empty allows any text.
        keep_stamps: which time stamps are kept: `all`, as in the release, or only those of
            `touched` groups, which have a kept visual token.
        max_context: largest number of positions of prompt and answer; None for the model's own.
        kv_cache: storage type of keys and values, see `KVCache.empty`.
        hbm_gib: GiB of device memory that may be used; None for all that the device reports.
    """

    keep_ratio: float = 0.9
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 256
    choices: tuple[str, ...] = ()
    keep_stamps: KeepStamps = "all"
    max_context: int | None = None
    kv_cache: CacheType = "model"
    hbm_gib: float | None = None

    def __post_init__(self):
        _require(0 < self.keep_ratio <= 1, "keep_ratio", self.keep_ratio, "in (0, 1]")
        heat = self.temperature
        _require(0 <= heat < math.inf, "temperature", heat, "0 or more")
        _require(0 <= self.seed <= LARGEST_SEED, "seed", self.seed, f"0 to {LARGEST_SEED}")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        _require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "at least 1")
        context = self.max_context
        _require(context is None or context > 0, "max_context", context, "at least 1")
        memory = self.hbm_gib
        _require(memory is None or 0 < memory < math.inf, "hbm_gib", memory, "above 0")


def _require(condition: bool, name: str, value: Any, wanted: str) -> None:
    if not condition:
        raise InputError(f"--{name} is {value}: it must be {wanted}.")
