"""How a question will be read: what is kept, and what memory that takes, before anything is read.

Shapes: `T` ids of the prompt, `G` groups.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np

from vxlpro_jax.config.schema import STAMP_TOKENS, ModelConfig
from vxlpro_jax.models.kv_cache import BLOCK, CHUNK, CacheType
from vxlpro_jax.ops.token_selection import num_kept
from vxlpro_jax.utils.errors import InputError

KeepStamps = Literal["all", "touched"]

_GIB = 2**30
# The selector at its peak, in arrays [G, 10 + N, D]: between 5 and 6 as compiled for H100 and v6e.
WINDOW_COPIES = 6
# A layer of one chunk, in arrays [CHUNK, mlp_width]: below 2 as compiled for H100 and v6e.
_CHUNK_COPIES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to answer.

    Attributes:
        keep_ratio: share of the visual tokens that the selector keeps, in (0, 1].
        temperature: of sampling; 0 takes the most likely id.
        top_p: sampling is among the likeliest ids that together reach this probability.
        seed: of sampling.
        max_new_tokens: length limit of an answer.
        choices: answers of which to give one, id by id; with none, any text.
        keep_stamps: `all` time stamps, as the release, or those of groups that are `touched`, of
            which a visual token is kept.
        max_context: positions that prompt and answer may take; None for the model's own limit.
        kv_cache: how the cache keeps keys and values, see `KVCache.empty`.
        hbm_gib: GiB of the device's memory that may be used; None for all it says it has.
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
        _require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        _require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "at least 1")
        context = self.max_context
        _require(context is None or context > 0, "max_context", context, "at least 1")
        _require(self.hbm_gib is None or self.hbm_gib > 0, "hbm_gib", self.hbm_gib, "above 0")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model on a device.

    Attributes:
        config: of the model.
        param_bytes: of its weights.
        itemsize: bytes of a number.
        device_bytes: that the device says it has, or None.
    """

    config: ModelConfig
    param_bytes: int
    itemsize: int
    device_bytes: int | None


class Memory(NamedTuple):
    """Bytes on the device.

    Attributes:
        params: weights.
        visual: the selector's windows and what it makes of them, before the decoder reads.
        embeddings: the decoder's input.
        cache: keys and values.
        workspace: of a chunk in a layer.
    """

    params: int
    visual: int
    embeddings: int
    cache: int
    workspace: int

    @property
    def peak(self) -> int:
        """At most at once: the selector ends before the cache is made."""
        reading = self.cache + self.workspace
        return self.params + self.embeddings + max(self.visual, reading)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one prompt is read.

    Attributes:
        ids: int32 [T] of the prompt.
        keep: visual tokens kept.
        positions: that the decoder reads before it answers, at most: text, stamps and kept tokens.
        memory: on the device.
    """

    ids: np.ndarray
    keep: int
    positions: int
    memory: Memory


def plan(ids: np.ndarray, *, groups: int, model: Loaded, options: Options) -> Plan:
    """Fits a prompt into context and memory, keeping fewer visual tokens if need be.

    Args:
        ids: int32 [T] of the prompt.
        groups: G of the video or picture.
        model: that will answer.
        options: how to answer.

    Raises:
        InputError: not even the prompt and the time stamps fit.
    """
    tokens = groups * model.config.tokens_per_group
    least = int(num_kept(tokens, ratio=0))
    keep = min(
        int(num_kept(tokens, ratio=options.keep_ratio)),
        _fitting_context(ids, groups=groups, least=least, model=model, options=options),
    )
    limit = model.device_bytes if options.hbm_gib is None else int(options.hbm_gib * 2**30)
    while True:
        made = _plan(ids, groups=groups, keep=keep, model=model, options=options)
        if limit is None or made.memory.peak <= limit:
            return made
        if keep == least:
            raise InputError(
                f"{groups} groups of four frames take {gib(made.memory.peak)} of the device"
                f" even if only {keep} visual tokens are kept, and {gib(limit)} may be used:"
                " lower --max_frames, or take --kv_cache=int8 or --dtype=bfloat16."
            )
        keep = max(keep * 7 // 8 // 16 * 16, least)


def _fitting_context(ids, *, groups, least, model, options) -> int:
    """The most visual tokens that the context holds, a multiple of 16 as in the release."""
    context = options.max_context or model.config.decoder.max_positions
    fixed, stamps = len(ids) - 1 + options.max_new_tokens, STAMP_TOKENS * groups
    if fixed + least + STAMP_TOKENS > context:
        raise InputError(
            f"The prompt has {len(ids)} ids and the answer may have {options.max_new_tokens};"
            f" the model's context is {context}: shorten the prompt or lower --max_new_tokens."
        )
    if fixed + least + stamps > context:
        raise InputError(
            f"{groups} groups of four frames need {stamps} positions for their time stamps alone,"
            f" and the prompt and the answer {fixed}; the model's context is {context}: lower"
            " --max_frames or raise --max_context beyond what the model was trained on."
        )
    room = context - fixed - stamps
    return max(room - room % 16, least)


def _plan(ids, *, groups, keep, model, options) -> Plan:
    positions = len(ids) - 1 + STAMP_TOKENS * groups + keep
    memory = memory_needed(
        model.config,
        params=model.param_bytes,
        groups=groups,
        positions=positions,
        new_tokens=options.max_new_tokens,
        itemsize=model.itemsize,
        kv_cache=options.kv_cache,
    )
    return Plan(ids, keep, positions, memory)


def _require(condition: bool, name: str, value: Any, wanted: str) -> None:
    if not condition:
        raise InputError(f"--{name} is {value}: it must be {wanted}.")


def memory_needed(
    config: ModelConfig,
    *,
    params: int,
    groups: int,
    positions: int,
    new_tokens: int,
    itemsize: int,
    kv_cache: CacheType,
) -> Memory:
    """Of one question.

    Args:
        config: of the model.
        params: bytes of the weights.
        groups: G.
        positions: L that the decoder reads before it answers.
        new_tokens: at most, of the answer.
        itemsize: bytes of a number of the model.
        kv_cache: how keys and values are kept.
    """
    decoder = config.decoder
    windows = groups * (STAMP_TOKENS + config.tokens_per_group) * decoder.width * itemsize
    chunk = min(positions, CHUNK)
    return Memory(
        params=params,
        visual=WINDOW_COPIES * windows,
        embeddings=_slots(positions, unit=CHUNK) * decoder.width * itemsize,
        cache=_slots(positions + new_tokens, unit=BLOCK)
        * slot_bytes(config, itemsize=itemsize, kv_cache=kv_cache),
        workspace=_CHUNK_COPIES * chunk * decoder.mlp_width * itemsize,
    )


def slot_bytes(config: ModelConfig, *, itemsize: int, kv_cache: CacheType) -> int:
    """Of one position in the cache."""
    decoder = config.decoder
    head = decoder.head_dim + 4 if kv_cache == "int8" else decoder.head_dim * itemsize
    return 2 * decoder.depth * decoder.num_kv_heads * head


def gib(size: float) -> str:
    """In words."""
    return f"{size / _GIB:.2f} GiB"


def _slots(positions, *, unit):
    return -(-positions // unit) * unit if positions > unit else positions
