"""Answers questions about one video or picture with a loaded model.

Frames are read, encoded and dropped a few groups at a time, so that memory holds of a video only
its visual tokens, on the host. A question's selected tokens and text go through the decoder in
chunks of one size, into a cache that is written in place.

Shapes: `G` groups, `N` visual tokens of a group, `T` text slots, `L` decoder slots, `R` ids of a
reply, `V` vocabulary. One sample a row, one row.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.checkpoints.inference_config import read_inference_config
from vxlpro_jax.checkpoints.params import locate, read_model_config, read_params
from vxlpro_jax.config.schema import IMAGE_TOKEN, InferenceConfig, ModelConfig
from vxlpro_jax.data.text import chat
from vxlpro_jax.data.text.tokenizer import StreamDecoder, Tokenizer
from vxlpro_jax.data.video import images
from vxlpro_jax.data.video.sampling import FrameStream
from vxlpro_jax.inference import memory_plan, sampling
from vxlpro_jax.inference.encoder import GROUPS_AT_ONCE, Encoded, Encoder, OpenVideo, pad, round_up
from vxlpro_jax.inference.memory_plan import KeepStamps, Options, Plan
from vxlpro_jax.inference.token_cache import TokenStore
from vxlpro_jax.models.kv_cache import CHUNK, KVCache
from vxlpro_jax.models.selector import drop_untouched
from vxlpro_jax.models.video_xl_pro import Text, abstract_params, jit_method
from vxlpro_jax.utils.errors import InputError

# Lengths are rounded up to these, so that few shapes are compiled.
_TEXT_MULTIPLE = 64
_SLOT_MULTIPLE = 256


class Predicted(NamedTuple):
    """A given reply, id by id: int32 [R] each.

    Attributes:
        expected: the reply and the end of the turn.
        predicted: the likeliest id at each place, after the expected ones before it.
    """

    expected: np.ndarray
    predicted: np.ndarray


@dataclasses.dataclass
class PrefillState:
    """A video or picture that the decoder has read, up to where questions part.

    Attributes:
        length: positions read; what a cache holds beyond them belongs to an answer.
        cache: the slots, passed on from answer to answer.
    """

    length: int
    cache: KVCache


class Engine:
    """A model on one device with its tokenizer: `encode_*` once, `answer` as often as liked."""

    def __init__(
        self,
        params: dict,
        *,
        config: ModelConfig,
        tokenizer: Tokenizer,
        inference_config: InferenceConfig | None = None,
        pinpoints: Any = None,
        progress: Callable | None = None,
        store: TokenStore | None = None,
    ):
        self.config = config
        self.inference_config = inference_config or InferenceConfig()
        self.tokenizer = tokenizer
        self._params = params
        self._pinpoints = pinpoints or images.DEFAULT_PINPOINTS
        self._progress = progress or (lambda items, **_: items)
        self._encoder = Encoder(
            params, config=config, tokenizer=tokenizer, progress=self._progress, store=store
        )

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        dtype: str | None = None,
        progress: Callable | None = None,
        feature_cache: str | Path = "",
    ) -> Self:
        """Reads a model folder or a training folder.

        Args:
            directory: see `checkpoint.locate`.
            dtype: type to compute in; None keeps the stored one, except on CPUs, which compute in
                float32 whatever the type and so are fastest with it.
            progress: `cli.progress`, or the like, for what takes long; None shows nothing.
            feature_cache: folder where visual tokens of videos are kept and found; empty for none.

        Raises:
            InputError: the folder is missing, damaged, or does not fit its config.json; or the
                cache cannot be written.
        """
        located = locate(directory)
        config = read_model_config(located.root)
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
        params = read_params(located.params, like=like, dtype=dtype, unstack=unstack)
        store = TokenStore(feature_cache, params=params, config=config) if feature_cache else None
        return cls(
            params,
            config=config,
            tokenizer=tokenizer,
            inference_config=read_inference_config(located.root),
            pinpoints=release.get("image_grid_pinpoints"),
            progress=progress,
            store=store,
        )

    def encode_video(self, path: str | Path, *, max_frames: int) -> Encoded:
        """Reads and encodes a video file, uniformly sampled.

        Raises:
            InputError: the file cannot be read (see `data.video.stream_video`).
            Failure: its tokens cannot be kept.
        """
        with self.open_video(path, max_frames=max_frames) as opened:
            return opened.encode()

    def open_video(
        self, path: str | Path, *, max_frames: int, fps: float | None = None
    ) -> OpenVideo:
        """Opens a video file; how many groups it has is known then.

        Raises:
            InputError: the file cannot be read (see `data.video.stream_video`).
            Failure: its tokens cannot be kept.
        """
        return self._encoder.open_video(path, max_frames=max_frames, fps=fps)

    def encode_stream(self, stream: FrameStream) -> Encoded:
        """Reads and encodes an open video to its end.

        Raises:
            InputError: a frame cannot be read.
        """
        return self._encoder.encode_stream(stream)

    def encode_image(self, path: str | Path) -> Encoded:
        """Reads and encodes a picture.

        Raises:
            InputError: the file cannot be read.
        """
        size = self.config.vision.image_size
        grids = images.parse_pinpoints(self._pinpoints, size=size)
        crops = images.group_crops(images.read_image(path, size=size, grids=grids))
        return self.encode_groups(crops, times=np.zeros(len(crops)))

    def encode_groups(self, frames: np.ndarray, *, times: np.ndarray) -> Encoded:
        """Encodes groups that are in memory: uint8 [G, 4, S, S, 3], seconds [G]."""
        return self._encoder.encode_groups(frames, times=times)

    def plan(self, encoded: Encoded, prompt: str, *, options: Options) -> Plan:
        """`plan_groups` of what is encoded."""
        return self.plan_groups(len(encoded.visual), prompt, options=options)

    def plan_groups(self, groups: int, prompt: str, *, options: Options) -> Plan:
        """Fits a prompt about `groups` groups of frames into context and memory.

        Raises:
            InputError: not even the prompt and the time stamps fit.
        """
        ids = chat.encode_prompt(chat.visual_question(prompt), tokenizer=self.tokenizer)
        return self.plan_ids(ids, groups=groups, options=options)

    def plan_ids(self, ids: np.ndarray, *, groups: int, options: Options) -> Plan:
        """`plan_groups` of a prompt's ids, int32 [T], with one image position.

        Raises:
            InputError: as `plan_groups`.
        """
        model = memory_plan.Loaded(
            self.config,
            param_bytes=sum(x.nbytes for x in jax.tree.leaves(self._params)),
            itemsize=self._dtype.itemsize,
            device_bytes=_device_bytes(),
        )
        return memory_plan.plan(ids, groups=groups, model=model, options=options)

    def answer(self, encoded: Encoded, plan: Plan, *, options: Options) -> Iterator[str]:
        """The answer in pieces, as soon as each is certain."""
        return self.generate(self.watch(encoded, [plan], options=options), plan, options=options)

    def watch(self, encoded: Encoded, plans: Sequence[Plan], *, options: Options) -> PrefillState:
        """Reads the video once for some questions, in chunks of one size.

        The visual tokens that stay are chosen for all of them together. With several this differs
        from asking each on its own, for which the video is read again.
        """
        plan = max(plans, key=lambda plan: plan.positions)
        first, longest = _image_at(plan) + 1, max(len(plan.ids) for plan in plans)
        most = plan.positions - (len(plan.ids) - first)
        chunk = min(CHUNK, round_up(most, _SLOT_MULTIPLE))
        slots = round_up(most, chunk)
        assemble = _assembling(slots, options.keep_stamps)
        embeddings, length = self._assemble(encoded, plans, function=assemble)
        asked = round_up(longest - first, _TEXT_MULTIPLE) + options.max_new_tokens
        cache = KVCache.empty(
            self.config.decoder,
            batch=1,
            slots=max(slots, round_up(most + asked + _TEXT_MULTIPLE, _SLOT_MULTIPLE)),
            dtype=self._dtype,
            kind=options.kv_cache,
        )
        starts = range(0, length, chunk)
        for start in self._progress(starts, name="reading", unit=f"{chunk} positions"):
            piece = jax.lax.dynamic_slice_in_dim(embeddings, start, chunk, axis=1)
            last = np.array([min(length - start, chunk) - 1], np.int32)
            _, cache = self._apply("prefill", piece, cache, last, donate=(1,))
        return PrefillState(length, cache)

    def generate(self, watched: PrefillState, plan: Plan, *, options: Options) -> Iterator[str]:
        """`answer` to a question about what has been read; end each before the next begins."""
        ids = plan.ids[_image_at(plan) + 1 :]
        logits = self._follow(watched, ids)[len(ids) - 1 :][:1]
        watched.cache = watched.cache.replace(lengths=jnp.array([watched.length + len(ids)]))
        text = StreamDecoder(self.tokenizer)
        ends = (self.tokenizer.im_end, self.tokenizer.endoftext)
        choices = [[*self.tokenizer.encode(text), ends[0]] for text in options.choices]
        for index in range(options.max_new_tokens):
            token = sampling.sample(
                sampling.only(logits, {ids[index] for ids in choices}),
                key=jax.random.fold_in(jax.random.key(options.seed), index),
                temperature=options.temperature,
                top_p=options.top_p,
            )
            choices = [ids for ids in choices if ids[index] == int(token[0])]
            if int(token[0]) in ends:
                break
            yield text.push(int(token[0]))
            if index + 1 < options.max_new_tokens:
                logits, watched.cache = self._apply(
                    "decode_step", token, watched.cache, donate=(1,)
                )
        yield text.finish()

    def predict(self, encoded: Encoded, plan: Plan, reply: str, *, options: Options) -> Predicted:
        """What the model would say at each place of a given reply.

        Raises:
            InputError: the reply is longer than `options.max_new_tokens`.
        """
        expected = np.array([*self.tokenizer.encode(reply), self.tokenizer.im_end], np.int32)
        if len(expected) > options.max_new_tokens:
            raise InputError(
                f"The reply {reply!r} has {len(expected)} ids, more than --max_new_tokens"
                f" ({options.max_new_tokens}): raise that."
            )
        asked = plan.ids[_image_at(plan) + 1 :]
        watched = self.watch(encoded, [plan], options=options)
        logits = self._follow(watched, np.concatenate([asked, expected]))
        predicted = logits[len(asked) - 1 :][: len(expected)].argmax(-1)
        return Predicted(expected, np.asarray(predicted, np.int32))

    def _follow(self, watched: PrefillState, ids: np.ndarray) -> jax.Array:
        """Reads ids [T] behind the video; logits [T', V], T' >= T, of what comes after each."""
        cache = watched.cache.replace(lengths=jnp.array([watched.length]))
        logits, watched.cache = self._apply("extend", _padded_text(ids), cache, donate=(1,))
        return logits[0]

    def _assemble(
        self, encoded: Encoded, plans: Sequence[Plan], *, function: Callable
    ) -> tuple[jax.Array, int]:
        """The decoder's input [1, L, D] up to the last visual token, and its length."""
        groups = round_up(len(encoded.visual), GROUPS_AT_ONCE)
        ids = np.concatenate([plan.ids for plan in plans])
        before = plans[0].ids[: _image_at(plans[0]) + 1]
        text = Text(
            tokens=_padded_text(before),
            token_segments=_padded_text(np.ones_like(before)),
            stamp_ids=pad(encoded.stamp_ids, groups)[None],
            group_segments=pad(np.ones(len(encoded.visual), np.int32), groups)[None],
            keep_counts=np.array([[min(plan.keep for plan in plans)]], np.int32),
        )
        asked = text.replace(
            tokens=_padded_text(ids), token_segments=_padded_text(np.ones_like(ids))
        )
        visual = pad(encoded.visual, groups)[None]
        run = jit_method(self.config, function)
        embeddings, lengths = run(self._params, visual, asked, text)
        return embeddings, int(lengths[0])

    @property
    def _dtype(self) -> np.dtype:
        return self._params["decoder"]["embed"].dtype

    def _apply(self, method: str, *inputs: Any, donate: tuple[int, ...] = ()) -> Any:
        return jit_method(self.config, method, donate)(self._params, *inputs)


def _without_scan(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, scan_layers=False)
    )


@functools.cache
def _assembling(slots: int, keep_stamps: KeepStamps) -> Callable:
    """One function for each number of slots, so that each is compiled once."""

    def assemble(model, visual, asked, text):
        selected = model.select(visual, asked)
        if keep_stamps == "touched":
            selected = drop_untouched(selected)
        sequence = model.splice(selected, text, slots=slots)
        return sequence.embeddings, sequence.layout.lengths

    return assemble


def _device_bytes() -> int | None:
    """What the device says that it has; a CPU says nothing."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def _image_at(plan: Plan) -> int:
    """Where the video stands in the prompt."""
    return int((plan.ids == IMAGE_TOKEN).argmax())


def _padded_text(ids: np.ndarray) -> np.ndarray:
    """[T] to [1, T'] with zeros behind."""
    return pad(ids, round_up(len(ids), _TEXT_MULTIPLE))[None]
