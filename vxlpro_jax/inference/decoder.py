"""Reads the visual tokens of a video with the decoder and generates answers.

Shapes: `G` groups of a video, `N` visual tokens of a group, `T` text slots, `L` decoder slots, `R`
ids of a reply, `V` vocabulary. A batch is one row of one sample.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.config.schema import STAMP_TOKENS
from vxlpro_jax.data.text.tokenizer import StreamDecoder
from vxlpro_jax.inference import sampling
from vxlpro_jax.inference.encoder import GROUPS_PER_BATCH, Encoded, pad, round_up
from vxlpro_jax.inference.loading import LoadedModel
from vxlpro_jax.inference.memory_plan import Plan
from vxlpro_jax.inference.options import KeepStamps, Options
from vxlpro_jax.models.kv_cache import CHUNK, KVCache
from vxlpro_jax.models.selector import drop_untouched
from vxlpro_jax.models.video_xl_pro import Text, jit_method
from vxlpro_jax.utils.errors import InputError

# Lengths are rounded up to multiples of these, so that few shapes are compiled.
_TEXT_MULTIPLE = 64
_SLOT_MULTIPLE = 256


class Predicted(NamedTuple):
    """A given reply and the model's prediction of each of its ids: int32 [R] each.

    Attributes:
        expected: the reply, followed by the end of the turn.
        predicted: the likeliest id at each place, given the expected ids before it.
    """

    expected: np.ndarray
    predicted: np.ndarray


class TokenScores(NamedTuple):
    """How the selector scores the visual tokens of a video for a question.

    Attributes:
        times: float64 [G], seconds at which the groups begin.
        scores: float [G, N], relevance of each token, min-max normalised to [0, 1].
        kept: bool [G, N], whether the decoder reads the token.
    """

    times: np.ndarray
    scores: np.ndarray
    kept: np.ndarray


@dataclasses.dataclass
class PrefillState:
    """A video or picture that the decoder has read, up to the point where questions differ.

    Attributes:
        length: number of positions read; anything in the cache beyond them belongs to an answer.
        cache: key/value cache, which is reused from answer to answer.
    """

    length: int
    cache: KVCache


class Decoder:
    """Selector and decoder of a model on one device."""

    def __init__(self, model: LoadedModel, *, progress: Callable):
        """Wraps a model; `progress` is `cli.progress` or a function like it."""
        self._model = model
        self._progress = progress

    def prefill(self, encoded: Encoded, plans: Sequence[Plan], *, options: Options) -> PrefillState:
        """Reads the video in chunks of one size, up to where the questions differ."""
        plan = max(plans, key=lambda plan: plan.positions)
        first, longest = plan.image_index + 1, max(len(plan.ids) for plan in plans)
        most = plan.positions - (len(plan.ids) - first)
        chunk = min(CHUNK, round_up(most, _SLOT_MULTIPLE))
        slots = round_up(most, chunk)
        assemble = _assembling(slots, options.keep_stamps)
        embeddings, length = self._assemble(encoded, plans, function=assemble)
        asked = round_up(longest - first, _TEXT_MULTIPLE) + options.max_new_tokens
        cache = KVCache.empty(
            self._model.config.decoder,
            batch=1,
            slots=max(slots, round_up(most + asked + _TEXT_MULTIPLE, _SLOT_MULTIPLE)),
            dtype=self._model.dtype,
            kind=options.kv_cache,
        )
        starts = range(0, length, chunk)
        for start in self._progress(starts, name="reading", unit=f"{chunk} positions"):
            piece = jax.lax.dynamic_slice_in_dim(embeddings, start, chunk, axis=1)
            last = np.array([min(length - start, chunk) - 1], np.int32)
            _, cache = self._apply("prefill", piece, cache, last, donate=(1,))
        return PrefillState(length, cache)

    def generate(self, state: PrefillState, plan: Plan, *, options: Options) -> Iterator[str]:
        """Yields the answer in pieces, each as soon as it is certain."""
        ids = plan.question_ids
        logits = self._extend(state, ids)[len(ids) - 1 :][:1]
        state.cache = _cut(state.cache, length=state.length + len(ids))
        text = StreamDecoder(self._model.tokenizer)
        ends = (self._model.tokenizer.im_end, self._model.tokenizer.endoftext)
        choices = [[*self._model.tokenizer.encode(text), ends[0]] for text in options.choices]
        for index in range(options.max_new_tokens):
            token = sampling.sample(
                sampling.only(logits, {ids[index] for ids in choices}),
                key=jax.random.fold_in(jax.random.key(options.seed), index),
                temperature=options.temperature,
                top_p=options.top_p,
            )
            # The next step starts before this id is known here. What it adds to the cache after the
            # answer's end is cut off by the next question.
            if index + 1 < options.max_new_tokens:
                logits, state.cache = self._apply("decode_step", token, state.cache, donate=(1,))
            last = int(token[0])
            choices = [ids for ids in choices if ids[index] == last]
            if last in ends:
                break
            yield text.push(last)
        yield text.finish()

    def predict(self, encoded: Encoded, plan: Plan, reply: str, *, options: Options) -> Predicted:
        """Predicts each id of a given reply from the ids before it.

        Raises:
            InputError: the reply is longer than `options.max_new_tokens`.
        """
        expected = np.array(
            [*self._model.tokenizer.encode(reply), self._model.tokenizer.im_end], np.int32
        )
        if len(expected) > options.max_new_tokens:
            raise InputError(
                f"The reply {reply!r} has {len(expected)} ids, more than --max_new_tokens"
                f" ({options.max_new_tokens}): raise that."
            )
        asked = plan.question_ids
        state = self.prefill(encoded, [plan], options=options)
        logits = self._extend(state, np.concatenate([asked, expected]))
        predicted = logits[len(asked) - 1 :][: len(expected)].argmax(-1)
        return Predicted(expected, np.asarray(predicted, np.int32))

    def token_scores(self, encoded: Encoded, plan: Plan) -> TokenScores:
        """Scores the visual tokens for a question as `prefill` does."""
        text = self._text(encoded, plan.ids, keep=plan.keep)
        visual = pad(encoded.visual, text.stamp_ids.shape[1])[None]
        selected = self._apply("select", visual, text)
        real = len(encoded.visual)
        return TokenScores(
            times=encoded.times,
            scores=np.asarray(selected.scores[0, :real], np.float32),
            kept=np.asarray(selected.kept[0, :real, STAMP_TOKENS:]),
        )

    def _extend(self, state: PrefillState, ids: np.ndarray) -> jax.Array:
        """Reads ids [T] after the video; returns logits [T', V], T' >= T, of the id after each."""
        cache = _cut(state.cache, length=state.length)
        logits, state.cache = self._apply("extend", _padded_text(ids), cache, donate=(1,))
        return logits[0]

    def _assemble(
        self, encoded: Encoded, plans: Sequence[Plan], *, function: Callable
    ) -> tuple[jax.Array, int]:
        """Returns the decoder's input [1, L, D] up to the last visual token, and its length."""
        keep = min(plan.keep for plan in plans)
        asked = self._text(encoded, np.concatenate([plan.ids for plan in plans]), keep=keep)
        text = self._text(encoded, plans[0].ids[: plans[0].image_index + 1], keep=keep)
        visual = pad(encoded.visual, text.stamp_ids.shape[1])[None]
        run = jit_method(self._model.config, function)
        embeddings, lengths = run(self._model.params, visual, asked, text)
        return embeddings, int(lengths[0])

    def _text(self, encoded: Encoded, ids: np.ndarray, *, keep: int) -> Text:
        """Makes one sample of the ids [T] about the video, padded."""
        groups = round_up(len(encoded.visual), GROUPS_PER_BATCH)
        return Text(
            tokens=_padded_text(ids),
            token_segments=_padded_text(np.ones_like(ids)),
            stamp_ids=jnp.asarray(pad(encoded.stamp_ids, groups)[None]),
            group_segments=(jnp.arange(groups) < len(encoded.visual)).astype(jnp.int32)[None],
            keep_counts=jnp.array([[keep]], jnp.int32),
        )

    def _apply(self, method: str, *inputs: Any, donate: tuple[int, ...] = ()) -> Any:
        return jit_method(self._model.config, method, donate)(self._model.params, *inputs)


@functools.cache
def _assembling(slots: int, keep_stamps: KeepStamps) -> Callable:
    """Returns one function per number of slots, so that each is compiled once."""

    def assemble(model, visual, asked, text):
        selected = model.select(visual, asked)
        if keep_stamps == "touched":
            selected = drop_untouched(selected)
        sequence = model.splice(selected, text, slots=slots)
        return sequence.embeddings, sequence.layout.lengths

    return assemble


def _cut(cache: KVCache, *, length: int) -> KVCache:
    """Returns the cache truncated to the first `length` positions."""
    return dataclasses.replace(cache, lengths=jnp.array([length]))


def _padded_text(ids: np.ndarray) -> jax.Array:
    """Pads ids with zeros at the end: int32 [T] -> [1, T']."""
    return jnp.asarray(pad(ids, round_up(len(ids), _TEXT_MULTIPLE))[None], jnp.int32)
