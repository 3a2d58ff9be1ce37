"""Measures whether a model needs the video for its replies: losses with it, and with blank ones.

Shapes: B samples at once, G groups a sample, T text slots, P places, C width of the tower, K blank
videos.
"""

import functools
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from vxlpro_jax.checkpoints.params import locate
from vxlpro_jax.config.schema import FRAMES_PER_GROUP, IGNORE_LABEL, TrainConfig
from vxlpro_jax.curation.measure import map_in_threads
from vxlpro_jax.curation.rules import ReplyLosses
from vxlpro_jax.data.loader.batches import stack_rows
from vxlpro_jax.data.loader.samples import RowShape, Sample, SampleReader, VideoReader
from vxlpro_jax.data.sources.schema import Record
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.data.video.pool import DecoderPool
from vxlpro_jax.inference.loading import load_model
from vxlpro_jax.models import microbatched_encoder
from vxlpro_jax.training.objective import Batch
from vxlpro_jax.training.objectives.sft import sft_loss
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.jit import jit

# Samples are padded to powers of two, text to at least this many ids, so that few shapes compile.
_LEAST_TEXT, _MOST_TEXT = 64, 4096
_AT_ONCE = 4

# Grey levels of the blank videos, whose losses are averaged. On any single one a model may be sure
# of a right answer by chance; rarely on all.
BLANKS = (0, 128, 255)


class _Ready(NamedTuple):
    """Attributes: `number` of an item, its `sample`, or the `error` why it has none."""

    number: int
    sample: Sample | None
    error: str = ""


class BlindScorer:
    """A model on one device that computes the loss of replies.

    Attributes:
        name: 12 hexadecimal digits that differ for other weights or settings.
    """

    def __init__(
        self,
        params: dict,
        *,
        config: TrainConfig,
        reader: SampleReader,
        name: str,
        workers: int = 1,
    ):
        """Stores parameters, which are on the device in the type `config.compute_dtype`.

        `reader` makes samples up to the shape of its rows; `workers` threads call it.
        """
        self.name = name
        self._params, self._reader, self._workers = params, reader, workers
        self._losses = jit(functools.partial(_losses, config=config))
        # All groups of a blank video are equal, so only one of them is compressed, once.
        self._blanks = jit(functools.partial(_blank_groups, config=config))(params)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        max_frames: int,
        keep_ratio: float,
        decoders: DecoderPool | None = None,
        workers: int = 1,
    ) -> Self:
        """Reads a model folder or a training folder.

        Args:
            directory: model folder or training folder; see `checkpoint.locate`.
            max_frames: largest number of frames of a video, uniformly spaced, a multiple of four.
            keep_ratio: share of visual tokens that the selector keeps.
            decoders: pool that reads the videos; None reads them in this process.
            workers: number of samples that are read at once.

        Raises:
            InputError: the folder cannot be used, or a setting is out of its range.
        """
        if max_frames < FRAMES_PER_GROUP or max_frames % FRAMES_PER_GROUP:
            raise InputError(f"--max_frames is {max_frames}: give a multiple of 4, at least 4.")
        if not 0 < keep_ratio <= 1:
            raise InputError(f"--keep_ratio is {keep_ratio}: give a share above 0, at most 1.")
        model = load_model(directory)
        size = model.config.vision.image_size
        reader = SampleReader.build(
            model.tokenizer,
            shape=RowShape(groups=max_frames // FRAMES_PER_GROUP, text=_MOST_TEXT, image_size=size),
            pinpoints=model.pinpoints,
            read_video=VideoReader(max_frames=max_frames, size=size, decoders=decoders),
        )
        config = TrainConfig(
            model=model.config,
            keep_ratio=(keep_ratio, keep_ratio),
            compute_dtype=str(model.dtype),
        )
        params = locate(directory).params
        settings = [str(params), params.stat().mtime, max_frames, keep_ratio, BLANKS]
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        return cls(model.params, config=config, reader=reader, name=name, workers=workers)

    def score(self, items: Iterable[tuple[int, Record]]) -> Iterator[tuple[int, ReplyLosses]]:
        """Yields the losses of numbered records, in another order.

        Samples of similar size are computed together. A sample that cannot be read, is too long or
        has no reply gets an error instead.
        """
        waiting: dict[tuple[int, int], list[_Ready]] = defaultdict(list)
        with map_in_threads(self._read, items, workers=self._workers) as read:
            for ready in read:
                if ready.sample is None:
                    yield ready.number, _not_scored(ready.error)
                    continue
                size = _padded(ready.sample)
                waiting[size].append(ready)
                if len(waiting[size]) == _AT_ONCE:
                    yield from self._score(waiting.pop(size), size)
        for size, rest in waiting.items():
            yield from self._score(rest, size)

    def _read(self, item: tuple[int, Record]) -> _Ready:
        number, record = item
        try:
            sample = self._reader(record)
        except InputError as error:
            return _Ready(number, None, str(error))
        tokenizer = self._reader.tokenizer
        assert tokenizer is not None
        labels = reply_labels(sample, tokenizer=tokenizer)
        if (labels == IGNORE_LABEL).all():
            return _Ready(number, None, "It has no reply.")
        return _Ready(number, sample._replace(labels=labels))

    def _score(
        self, ready: list[_Ready], size: tuple[int, int]
    ) -> Iterator[tuple[int, ReplyLosses]]:
        """Scores at most `_AT_ONCE` samples; the last one is repeated up to that number."""
        rows = [[each.sample] for each in ready if each.sample is not None]
        rows += rows[-1:] * (_AT_ONCE - len(rows))
        groups, text = size
        shape = RowShape(groups=groups, text=text, image_size=self._reader.shape.image_size)
        batch = stack_rows(rows, shape=shape)
        seen, blind = map(np.asarray, self._losses(self._params, batch, self._blanks))
        for each, *losses in zip(ready, seen.tolist(), blind.tolist(), strict=False):
            fine = all(map(math.isfinite, losses))
            yield (
                each.number,
                ReplyLosses(*losses) if fine else _not_scored("Its loss is no number."),
            )


def reply_labels(sample: Sample, *, tokenizer: Tokenizer) -> np.ndarray:
    """Returns a sample's labels without those of the template, which need no video: int32 [t].

    In training the markers of every turn and the newline after them are targets too.
    """
    tokens, labels = sample.tokens, sample.labels
    is_marker = np.isin(tokens, (tokenizer.im_start, tokenizer.im_end))
    is_behind = np.concatenate([[False], tokens[:-1] == tokenizer.im_end])
    return np.where(is_marker | is_behind, IGNORE_LABEL, labels).astype(np.int32)


def _not_scored(error: str) -> ReplyLosses:
    return ReplyLosses(None, None, error)


def _padded(sample: Sample) -> tuple[int, int]:
    """Returns the padded numbers of groups and text slots."""
    groups, text, _ = sample.size
    return _power_of_two(groups), max(_LEAST_TEXT, _power_of_two(text))


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _blank_groups(params, *, config):
    """Computes the DTS's output for four frames of each level: [K, P, C]."""
    size = config.model.vision.image_size
    levels = jnp.array(BLANKS, jnp.uint8)[None, :, None, None, None, None]
    frames = jnp.broadcast_to(levels, (1, len(BLANKS), FRAMES_PER_GROUP, size, size, 3))
    part = {"config": config.model, "microbatch": config.encode_microbatch}
    features = microbatched_encoder.group_features(params, frames, **part)
    return microbatched_encoder.compress(params, features, **part)[0]


def _losses(params, batch: Batch, blanks: jax.Array, *, config) -> tuple[jax.Array, jax.Array]:
    """Computes each row's training loss: [B] as it is, and [B] the mean over blank videos."""

    def loss(row):
        alone = {name: x[None] for name, x in row.items()}
        return sft_loss(params, alone, key=jax.random.key(0), config=config).value

    def blind(blank):
        shown = jnp.broadcast_to(blank, (*batch["group_segments"].shape, *blank.shape))
        return jax.lax.map(loss, unseen | {"compressed": shown})

    unseen = {name: x for name, x in batch.items() if name != "frames"}
    return jax.lax.map(loss, batch), jax.lax.map(blind, blanks).mean(0)
