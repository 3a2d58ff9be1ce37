"""Answers questions about videos and pictures with a loaded model.

A video is encoded a few groups at a time, so that only its visual tokens stay in memory, on the
host (`encoder`). A question's selected tokens and text then go through the decoder in chunks of
one size, into a cache that is written in place (`decoder`).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from vxlpro_jax.config.schema import InferenceConfig, ModelConfig
from vxlpro_jax.data.text import chat
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.data.video import images
from vxlpro_jax.data.video.sampling import FrameStream
from vxlpro_jax.inference import memory_plan
from vxlpro_jax.inference.decoder import Decoder, Predicted, PrefillState, TokenScores
from vxlpro_jax.inference.encoder import Encoded, Encoder, OpenMedia
from vxlpro_jax.inference.loading import LoadedModel, load_model
from vxlpro_jax.inference.memory_plan import Plan
from vxlpro_jax.inference.options import Options
from vxlpro_jax.inference.token_cache import TokenCache

# Files with these suffixes are pictures; all others, including GIF and WebP, may be videos.
_PICTURE_SUFFIXES = (".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff")


class Engine:
    """A model with its tokenizer on one device: call `encode_*` once, `answer` repeatedly."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        progress: Callable | None = None,
        token_cache: str | Path = "",
    ):
        """Wraps a loaded model.

        Args:
            model: model from `load_model`.
            progress: `cli.progress` or a function like it, for long operations; None for none.
            token_cache: folder that caches visual tokens of videos; empty for none.

        Raises:
            InputError: the cache cannot be written.
        """
        self.model = model
        self._progress = progress or (lambda items, **_: items)
        self._encoder = Encoder(
            model,
            progress=self._progress,
            cache=TokenCache(token_cache, model=model) if token_cache else None,
        )
        self._decoder = Decoder(model, progress=self._progress)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        dtype: str | None = None,
        progress: Callable | None = None,
        token_cache: str | Path = "",
    ) -> Self:
        """Loads a model folder or a training folder; see `load_model` and `Engine`.

        Raises:
            InputError: the folder is missing, damaged, or does not fit its config.json; or the
                cache cannot be written.
        """
        model = load_model(directory, dtype=dtype)
        return cls(model, progress=progress, token_cache=token_cache)

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""
        return self.model.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the language model."""
        return self.model.tokenizer

    @property
    def inference_config(self) -> InferenceConfig:
        """Default inference settings of the model."""
        return self.model.inference_config

    def ask(self, media: str | Path | Encoded, question: str, **options: Any) -> str:
        """Answers a question about a video or picture.

        Args:
            media: file, or the result of `encode`, which several questions can share.
            question: text.
            **options: fields of `Options`; the keep ratio defaults to the model's own.

        Raises:
            InputError: the file cannot be read, or an option does not fit the question.
        """
        encoded = media if isinstance(media, Encoded) else self.encode(media)
        chosen = self.options(**options)
        plan = self.plan(encoded, question, options=chosen)
        return "".join(self.answer(encoded, plan, options=chosen))

    def options(self, **fields: Any) -> Options:
        """Returns `Options`, with the model's own keep ratio unless `fields` sets another.

        Raises:
            InputError: a value is out of its range.
        """
        return Options(**{"keep_ratio": self.inference_config.keep_ratio, **fields})

    def encode(
        self, file: str | Path, *, max_frames: int | None = None, fps: float | None = None
    ) -> Encoded:
        """Reads and encodes a video, or a picture if the file name has the suffix of one.

        Args:
            file: path of the video or picture.
            max_frames: largest number of frames sampled from a video; None for the model's default.
            fps: frames sampled per second, 0 for uniformly spaced; None for the model's default.

        Raises:
            InputError: the file cannot be read.
            Failure: its tokens cannot be written to the cache.
        """
        if Path(file).suffix.lower() in _PICTURE_SUFFIXES:
            return self.encode_image(file)
        own = self.inference_config
        rate = own.fps if fps is None else fps
        with self.open_video(
            file, max_frames=max_frames or own.max_frames, fps=rate or None
        ) as video:
            return video.encode()

    def encode_video(self, path: str | Path, *, max_frames: int) -> Encoded:
        """Reads and encodes a video file, sampled uniformly.

        Raises:
            InputError: the file cannot be read (see `data.video.stream_video`).
            Failure: its tokens cannot be written to the cache.
        """
        with self.open_video(path, max_frames=max_frames) as opened:
            return opened.encode()

    def open_video(
        self, path: str | Path, *, max_frames: int, fps: float | None = None
    ) -> OpenMedia:
        """Opens a video file, which determines its number of groups, without encoding it.

        Raises:
            InputError: the file cannot be read (see `data.video.stream_video`).
            Failure: its content hash cannot be written to the cache.
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
        with self.open_image(path) as opened:
            return opened.encode()

    def open_image(self, path: str | Path) -> OpenMedia:
        """Reads a picture without encoding it.

        Raises:
            InputError: the file cannot be read.
        """
        size = self.config.vision.image_size
        grids = images.parse_pinpoints(self.model.pinpoints, size=size)
        crops = images.group_crops(images.read_image(path, size=size, grids=grids))
        times = np.zeros(len(crops))
        return OpenMedia(
            len(crops),
            encode=lambda: self.encode_groups(crops, times=times),
            times=lambda: times,
            close=lambda: None,
        )

    def encode_groups(self, frames: np.ndarray, *, times: np.ndarray) -> Encoded:
        """Encodes groups that are in memory: uint8 [G, 4, S, S, 3], seconds [G]."""
        return self._encoder.encode_groups(frames, times=times)

    def plan(self, encoded: Encoded, prompt: str, *, options: Options) -> Plan:
        """Plans a prompt about encoded media, as `plan_groups` does."""
        return self.plan_groups(len(encoded.visual), prompt, options=options)

    def plan_groups(self, groups: int, prompt: str, *, options: Options) -> Plan:
        """Fits a prompt about `groups` groups of frames into context and memory.

        Raises:
            InputError: not even the prompt and the time stamps fit.
        """
        ids = chat.encode_prompt(chat.visual_question(prompt), tokenizer=self.tokenizer)
        return self.plan_ids(ids, groups=groups, options=options)

    def plan_ids(self, ids: np.ndarray, *, groups: int, options: Options) -> Plan:
        """Plans a prompt given as ids, int32 [T], with one image position, as `plan_groups` does.

        Raises:
            InputError: as in `plan_groups`.
        """
        model = memory_plan.Loaded(
            self.config,
            param_bytes=sum(x.nbytes for x in jax.tree.leaves(self.model.params)),
            itemsize=self.model.dtype.itemsize,
            device_bytes=_device_bytes(),
        )
        return memory_plan.plan(ids, groups=groups, model=model, options=options)

    def answer(self, encoded: Encoded, plan: Plan, *, options: Options) -> Iterator[str]:
        """Yields the answer in pieces, each as soon as it is certain."""
        return self.generate(self.prefill(encoded, [plan], options=options), plan, options=options)

    def prefill(self, encoded: Encoded, plans: Sequence[Plan], *, options: Options) -> PrefillState:
        """Reads the video once for several questions.

        One selection of visual tokens serves all of these questions. With several questions the
        answers therefore differ from those to each question alone.
        """
        return self._decoder.prefill(encoded, plans, options=options)

    def generate(self, state: PrefillState, plan: Plan, *, options: Options) -> Iterator[str]:
        """Yields the answer to a question about the media that `prefill` has read.

        An answer must be consumed to its end before the next begins.
        """
        return self._decoder.generate(state, plan, options=options)

    def predict(self, encoded: Encoded, plan: Plan, reply: str, *, options: Options) -> Predicted:
        """Predicts each id of a given reply from the ids before it.

        Raises:
            InputError: the reply is longer than `options.max_new_tokens`.
        """
        return self._decoder.predict(encoded, plan, reply, options=options)

    def token_scores(self, encoded: Encoded, question: str, **options: Any) -> TokenScores:
        """Scores the visual tokens for a question as the selector does before the decoder reads.

        Args:
            encoded: video or picture.
            question: text.
            **options: fields of `Options`, as in `ask`.

        Raises:
            InputError: as in `plan`.
        """
        plan = self.plan(encoded, question, options=self.options(**options))
        return self._decoder.token_scores(encoded, plan)


def _device_bytes() -> int | None:
    """Returns the memory limit that the device reports; None on a CPU, which reports none."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
