"""Answers questions about one video or picture with a loaded model.

Shapes: `G` groups, `T` text slots, `L` decoder slots, `V` vocabulary. One sample a row, one row.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax import checkpoint
from vxlpro_jax.config import STAMP_TOKENS, InputError, ModelConfig
from vxlpro_jax.data import chat, images, video
from vxlpro_jax.data.tokenizer import StreamDecoder, Tokenizer
from vxlpro_jax.jit import jit
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.video_xl_pro import Sequence, Text, VideoXLPro, abstract_params
from vxlpro_jax.ops.selection import keep_count

# Lengths are rounded up to these, so that few shapes are compiled.
_GROUPS_AT_ONCE = 8
_TEXT_MULTIPLE = 64
_SLOT_MULTIPLE = 256


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
    """

    keep_ratio: float = 0.9
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 256
    choices: tuple[str, ...] = ()

    def __post_init__(self):
        _require(0 < self.keep_ratio <= 1, "keep_ratio", self.keep_ratio, "in (0, 1]")
        _require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        _require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "at least 1")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A video or picture, ready for any number of questions.

    Attributes:
        visual: [G, N, D], tokens.
        stamp_ids: int32 [G, 10].
    """

    visual: jax.Array
    stamp_ids: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Visual tokens before selection."""
        return self.visual.shape[0] * self.visual.shape[1]


@dataclasses.dataclass(frozen=True)
class Plan:
    """One prompt's ids, int32 [T], and how many visual tokens it keeps."""

    ids: np.ndarray
    keep: int


class Answerer:
    """A model on one device with its tokenizer: `encode_*` once, `answer` as often as liked."""

    def __init__(
        self, params: dict, *, config: ModelConfig, tokenizer: Tokenizer, pinpoints: Any = None
    ):
        self.config = config
        self.tokenizer = tokenizer
        self._params = params
        self._pinpoints = pinpoints or images.DEFAULT_PINPOINTS

    @classmethod
    def load(cls, directory: str | Path, *, dtype: str | None = None) -> Self:
        """Reads a model folder or a training folder.

        Args:
            directory: see `checkpoint.locate`.
            dtype: type to compute in; None keeps the stored one, except on CPUs, which compute in
                float32 whatever the type and so are fastest with it.

        Raises:
            InputError: the folder is missing, damaged, or does not fit its config.json.
        """
        located = checkpoint.locate(directory)
        config = checkpoint.read_model_config(located.root)
        tokenizer = Tokenizer.from_folder(str(located.root))
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
            abstract_params(config),
        )
        unstack = None
        if jax.default_backend() == "cpu" and dtype in (None, "float32"):
            dtype, unstack = "float32", "decoder/layers"
            config = _without_scan(config)
        release = json.loads((located.root / "config.json").read_text())
        return cls(
            checkpoint.read_params(located.params, like=like, dtype=dtype, unstack=unstack),
            config=config,
            tokenizer=tokenizer,
            pinpoints=release.get("image_grid_pinpoints"),
        )

    def encode_video(self, path: str | Path, *, max_frames: int) -> Encoded:
        """Reads and encodes a video file.

        Raises:
            InputError: the file cannot be read (see `data.video.read_video`).
        """
        size = self.config.vision.image_size
        groups = video.group_frames(video.read_video(path, max_frames=max_frames, size=size))
        return self.encode_groups(groups.frames, times=groups.times)

    def encode_image(self, path: str | Path) -> Encoded:
        """Reads and encodes a picture.

        Raises:
            InputError: the file cannot be read.
        """
        size = self.config.vision.image_size
        grids = images.parse_pinpoints(self._pinpoints, size=size)
        crops = images.group_crops(images.read_image(path, size=size, grids=grids))
        return self.encode_groups(crops, times=np.zeros(len(crops)))

    def plan(self, encoded: Encoded, prompt: str, *, options: Options) -> Plan:
        """Fits a prompt into the model's context, keeping fewer visual tokens if need be.

        Raises:
            InputError: not even the prompt and the time stamps fit.
        """
        ids = chat.encode_prompt(chat.visual_question(prompt), tokenizer=self.tokenizer)
        keep = int(keep_count(encoded.num_tokens, ratio=options.keep_ratio))
        context, fixed = self.config.decoder.max_positions, len(ids) - 1 + options.max_new_tokens
        stamps = STAMP_TOKENS * len(encoded.visual)
        least = int(keep_count(encoded.num_tokens, ratio=0))
        if fixed + least + STAMP_TOKENS > context:
            raise InputError(
                f"The prompt has {len(ids)} ids and the answer may have {options.max_new_tokens};"
                f" the model's context is {context}: shorten the prompt or lower --max_new_tokens."
            )
        if fixed + least + stamps > context:
            raise InputError(
                f"{len(encoded.visual)} groups of four frames need {stamps} positions for their"
                f" time stamps alone, and the prompt and the answer {fixed}; the model's context is"
                f" {context}: lower --max_frames."
            )
        room = context - fixed - stamps
        return Plan(ids, min(keep, max(room - room % 16, least)))

    def answer(self, encoded: Encoded, plan: Plan, *, options: Options) -> Iterator[str]:
        """The answer in pieces, as soon as each is certain."""
        sequence, length = self._assemble(encoded, plan)
        slots = _round_up(length + options.max_new_tokens, _SLOT_MULTIPLE)
        sequence = _trim(sequence, min(_round_up(length, _SLOT_MULTIPLE), slots))
        cache = KVCache.empty(
            self.config.decoder, batch=1, slots=slots, dtype=sequence.embeddings.dtype
        )
        logits, cache = self._apply("prefill", sequence, cache, donate=(1,))
        text = StreamDecoder(self.tokenizer)
        ends = (self.tokenizer.im_end, self.tokenizer.endoftext)
        choices = [[*self.tokenizer.encode(text), ends[0]] for text in options.choices]
        for index in range(options.max_new_tokens):
            token = sample(
                _only(logits, {ids[index] for ids in choices}),
                key=jax.random.fold_in(jax.random.key(options.seed), index),
                temperature=options.temperature,
                top_p=options.top_p,
            )
            choices = [ids for ids in choices if ids[index] == int(token[0])]
            if int(token[0]) in ends:
                break
            yield text.push(int(token[0]))
            if index + 1 < options.max_new_tokens:
                logits, cache = self._apply("step", token, cache, donate=(1,))
        yield text.finish()

    def encode_groups(self, frames: np.ndarray, *, times: np.ndarray) -> Encoded:
        """Encodes a fixed number of groups at a time, so that memory does not grow with frames."""
        parts = []
        for start in range(0, len(frames), _GROUPS_AT_ONCE):
            part = frames[start : start + _GROUPS_AT_ONCE]
            part = _pad(part, _round_up(len(part), 2 if len(frames) <= 2 else _GROUPS_AT_ONCE))
            parts.append(self._apply("encode", part[None])[0])
        stamp_ids = chat.encode_stamps(times, tokenizer=self.tokenizer)
        return Encoded(jnp.concatenate(parts)[: len(frames)], stamp_ids)

    def _assemble(self, encoded: Encoded, plan: Plan) -> tuple[Sequence, int]:
        """The decoder's input, padded, and its true length."""
        groups = _round_up(len(encoded.visual), _GROUPS_AT_ONCE)
        slots = _round_up(len(plan.ids), _TEXT_MULTIPLE)
        text = Text(
            tokens=_pad(plan.ids, slots)[None],
            token_segments=_pad(np.ones(len(plan.ids), np.int32), slots)[None],
            stamp_ids=_pad(encoded.stamp_ids, groups)[None],
            group_segments=_pad(np.ones(len(encoded.visual), np.int32), groups)[None],
            keep_counts=np.array([[plan.keep]], np.int32),
        )
        extra = groups - len(encoded.visual)
        visual = jnp.pad(encoded.visual, ((0, extra), (0, 0), (0, 0)))[None]
        sequence = self._apply("assemble", visual, text)
        return sequence, int(sequence.layout.lengths[0])

    def _apply(self, method: str, *inputs: Any, donate: tuple[int, ...] = ()) -> Any:
        return compiled(self.config, method, donate)(self._params, *inputs)


@functools.cache
def compiled(config: ModelConfig, method: str | Callable, donate: tuple[int, ...] = ()) -> Callable:
    """A method of the model as a jitted function of parameters and inputs, made once.

    Args:
        config: of the model.
        method: its name, or a function of the bound model and the inputs.
        donate: which inputs, counted from 0, may be overwritten.
    """

    def apply(params, *inputs):
        return VideoXLPro(config).apply({"params": params}, *inputs, method=method)

    return jit(apply, donate_argnums=tuple(1 + index for index in donate))


@functools.partial(jax.jit, static_argnames=("temperature", "top_p"))
def sample(logits: jax.Array, *, key: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """Next ids, int32 [B], from logits [B, V]; temperature 0 takes the first of the likeliest."""
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        # An id stays while those before it have not reached top_p, so the likeliest always does.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.where(before < top_p, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _only(logits: jax.Array, ids: set[int]) -> jax.Array:
    """Logits [B, V] of the ids, the rest impossible; all of them if there are none."""
    if not ids:
        return logits
    at = np.array(sorted(ids))
    return jnp.full_like(logits, -jnp.inf).at[:, at].set(logits[:, at])


def _without_scan(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, scan_layers=False)
    )


def _trim(sequence: Sequence, slots: int) -> Sequence:
    """The first `slots` positions, padded if there are fewer."""
    length = sequence.embeddings.shape[1]
    embeddings = jnp.pad(
        sequence.embeddings[:, :slots], ((0, 0), (0, max(slots - length, 0)), (0, 0))
    )
    return sequence.replace(embeddings=embeddings)


def _pad(array: np.ndarray, length: int) -> np.ndarray:
    """`array` with zeros behind, along axis 0."""
    return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _require(condition: bool, name: str, value: Any, wanted: str) -> None:
    if not condition:
        raise InputError(f"--{name} is {value}: it must be {wanted}.")
