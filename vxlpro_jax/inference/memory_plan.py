"""Plans how a question will be read, before anything is: kept tokens, positions and memory.

Shapes: `T` ids of the prompt, `G` groups.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from vxlpro_jax.config.schema import IMAGE_TOKEN, STAMP_TOKENS, CacheType, ModelConfig
from vxlpro_jax.inference.options import Options
from vxlpro_jax.models.kv_cache import BLOCK, CHUNK
from vxlpro_jax.ops.token_selection import num_kept
from vxlpro_jax.utils.errors import InputError

_GIB = 2**30
# Peak memory of the selector, in arrays [G, 10 + N, D]: 5 to 6 as compiled for H100 and v6e.
WINDOW_COPIES = 6
# Memory of a layer for a chunk, in arrays [CHUNK, mlp_width]: below 2 as compiled for H100 and v6e.
_CHUNK_COPIES = 3


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model on a device.

    Attributes:
        config: config of the model.
        param_bytes: bytes of its weights.
        itemsize: bytes per number.
        device_bytes: memory that the device reports, or None.
    """

    config: ModelConfig
    param_bytes: int
    itemsize: int
    device_bytes: int | None


class Memory(NamedTuple):
    """Bytes on the device.

    Attributes:
        params: weights.
        visual: selector's windows and intermediate arrays, before the decoder reads.
        embeddings: the decoder's input.
        cache: keys and values.
        workspace: intermediate arrays of one chunk in one layer.
    """

    params: int
    visual: int
    embeddings: int
    cache: int
    workspace: int

    @property
    def peak(self) -> int:
        """Peak memory: the selector's arrays are freed before the cache is allocated."""
        reading = self.cache + self.workspace
        return self.params + self.embeddings + max(self.visual, reading)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one prompt is read.

    Attributes:
        ids: int32 [T], ids of the prompt.
        keep: number of visual tokens kept.
        positions: largest number of positions that the decoder reads before it answers: text,
            stamps and kept tokens.
        memory: memory on the device.
    """

    ids: np.ndarray
    keep: int
    positions: int
    memory: Memory

    @property
    def image_index(self) -> int:
        """Index in `ids` of the position that the visual tokens replace."""
        return int((self.ids == IMAGE_TOKEN).argmax())

    @property
    def question_ids(self) -> np.ndarray:
        """The ids after the visual tokens."""
        return self.ids[self.image_index + 1 :]


def plan(ids: np.ndarray, *, groups: int, model: Loaded, options: Options) -> Plan:
    """Fits a prompt into context and memory, keeping fewer visual tokens if need be.

    Args:
        ids: int32 [T], ids of the prompt.
        groups: number of groups G of the video or picture.
        model: model that will answer.
        options: options of the answer.

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
                f"{groups} groups of four frames need {gib(made.memory.peak)} of device memory"
                f" even if only {keep} visual tokens are kept, but {gib(limit)} may be used:"
                " lower --max_frames, or use --kv_cache=int8 or --dtype=bfloat16."
            )
        keep = max(keep * 7 // 8 // 16 * 16, least)


def _fitting_context(ids, *, groups, least, model, options) -> int:
    """Returns the largest number of visual tokens that fits the context, a multiple of 16."""
    context = options.max_context or model.config.decoder.context
    fixed, stamps = len(ids) - 1 + options.max_new_tokens, STAMP_TOKENS * groups
    if fixed + least + STAMP_TOKENS > context:
        raise InputError(
            f"The prompt has {len(ids)} ids and the answer may have {options.max_new_tokens};"
            f" the model's context is {context}: shorten the prompt or lower --max_new_tokens."
        )
    if fixed + least + stamps > context:
        raise InputError(
            f"{groups} groups of four frames need {stamps} positions for their time stamps alone,"
            f" and the prompt and the answer need {fixed}; the model's context is {context}: lower"
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
    """Computes the memory that one question takes.

    Args:
        config: config of the model.
        params: bytes of the weights.
        groups: number of groups G.
        positions: number of positions L that the decoder reads before it answers.
        new_tokens: largest number of tokens in the answer.
        itemsize: bytes per number of the model.
        kv_cache: storage type of keys and values.
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
    """Returns the bytes of one position in the cache."""
    decoder = config.decoder
    head = decoder.head_dim + 4 if kv_cache == "int8" else decoder.head_dim * itemsize
    return 2 * decoder.depth * decoder.num_kv_heads * head


def describe(plan: Plan) -> str:
    """Describes what a plan keeps and the memory that it takes, in two sentences."""
    memory = plan.memory
    return (
        f"{plan.keep} visual tokens kept, {plan.positions} positions to read. Peak device memory"
        f" {gib(memory.peak)}: weights {gib(memory.params)}, visual tokens {gib(memory.visual)},"
        f" input {gib(memory.embeddings)}, keys and values {gib(memory.cache)}, workspace"
        f" {gib(memory.workspace)}, which are not all in use at once."
    )


def gib(size: float) -> str:
    """Formats a number of bytes in GiB."""
    return f"{size / _GIB:.2f} GiB"


def _slots(positions, *, unit):
    return -(-positions // unit) * unit if positions > unit else positions
