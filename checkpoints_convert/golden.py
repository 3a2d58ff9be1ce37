"""Runs a converted model on inputs of the released code and compares every stage.

A golden file (`.npz`) holds one video or picture, a prompt, and what the released PyTorch code made
of them in float64. Stages are computed one after another from our own earlier results, or from the
file's where it lacks the inputs; only the parameters that a stage needs are in memory. Fields that
the file lacks are skipped, fields that are unknown are ignored.

Shapes: `F` frames, `G` groups kept, `T` prompt ids, `N = 144 G`, `L` decoder slots in use.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from checkpoints_convert import mapping
from vxlpro_jax.checkpoints.array_store import as_lazy
from vxlpro_jax.checkpoints.params import locate, read_model_config, read_params
from vxlpro_jax.config.schema import FRAMES_PER_GROUP, IGNORE_LABEL, IMAGE_TOKEN, STAMP_TOKENS
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.video_xl_pro import Text, VideoXLPro, abstract_params, jit_method
from vxlpro_jax.ops import patches
from vxlpro_jax.ops.token_selection import num_kept
from vxlpro_jax.training.losses import cross_entropy
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.jit import jit

Case = Mapping[str, np.ndarray]


class Row(NamedTuple):
    """One comparison.

    Attributes:
        stage: a field of the golden file, or the torch name of a gradient.
        difference: the largest absolute difference; for a gradient norm relative to the reference
            unless that is zero.
        reference: the largest absolute reference value.
        ok: whether the difference is within tolerance.
    """

    stage: str
    difference: float
    reference: float
    ok: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a stage may be off, times the larger of 1 and the largest reference value.

    Attributes:
        before: up to the visual sequence.
        after: from the selector's scores on, which min-max normalisation stretches.
        grad: gradient norms, relative to the reference.
        zero_grad: absolute, of norms whose true value is zero (that of key biases, say), which in
            float32 are the rounding of large terms that cancel.
    """

    before: float
    after: float
    grad: float
    zero_grad: float


DEFAULTS = {
    "float64": Tolerance(before=1e-5, after=1e-5, grad=1e-5, zero_grad=1e-9),
    "float32": Tolerance(before=1e-4, after=3e-3, grad=3e-3, zero_grad=1e-3),
}
_ZERO_GRAD = 1e-9
_AFTER_ROTARY = (
    "window_attention",
    "scores",
    "after_rotary",
    "inputs_embeds",
    "logits_lse",
    "last_logits_head",
    "loss",
)


def read_case(file: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a golden file.

    Raises:
        InputError: it does not exist or is not an `.npz` of plain arrays.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise InputError(f"Golden file {file} does not exist.") from error
    except (ValueError, OSError, AttributeError, TypeError) as error:
        raise InputError(f"{file} is not an .npz of plain arrays ({error}).") from error


def compare(directory: str | Path, case: Case, *, dtype: str, tolerance: Tolerance) -> list[Row]:
    """Compares all stages that `case` has.

    float64 needs `jax_enable_x64`.
    """
    stages = _Stages(_Model(directory, dtype), case)
    rows = []
    with jax.default_matmul_precision("highest"):
        for stage, value in stages.values():
            limit = tolerance.after if stage in _AFTER_ROTARY else tolerance.before
            rows.append(_row(stage, value, case[stage], limit=limit))
        rows += stages.choices(limit=tolerance.after)
        rows += stages.gradients(tolerance)
    return rows


def _row(stage: str, value: Any, reference: np.ndarray, *, limit: float) -> Row:
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    largest = float(np.abs(reference).max(initial=0))
    if value.shape != reference.shape:
        return Row(f"{stage} {value.shape} != {reference.shape}", np.inf, largest, ok=False)
    difference = float(np.abs(value - reference).max(initial=0))
    return Row(stage, difference, largest, ok=difference <= limit * max(1.0, largest))


class _Model:
    """Methods of the model, jitted, each run with only the parameters that it needs."""

    def __init__(self, directory: str | Path, dtype: str):
        located = locate(directory)
        self.config = read_model_config(located.root)
        self.dtype = dtype
        self._folder = located.params
        self._like = abstract_params(self.config)
        self._kept: tuple[tuple[str, ...], dict] | None = None

    def params(self, *parts: str) -> dict:
        """The parameters whose path starts with one of `parts`; the last ones read are kept."""
        if self._kept is None or self._kept[0] != parts:
            self._kept = None
            read = read_params(
                self._folder,
                like=self._like,
                dtype=self.dtype,
                only=lambda path: path.startswith(parts),
            )
            self._kept = (parts, jax.tree.map(jnp.asarray, read))
        return self._kept[1]

    def run(self, method: str | Callable, *inputs: Any, parts: tuple[str, ...]) -> Any:
        """Applies a method of the model."""
        return jit_method(self.config, method)(self.params(*parts), *inputs)


_TOWER = ("vision/", "dts/", "projector/")
_SELECTOR = ("selector/", "decoder/embed")
_DECODER = ("decoder/",)


class _Stages:
    """The stages of one case, each computed once."""

    def __init__(self, model: _Model, case: Case):
        self.model = model
        self.case = case
        self.is_image = str(case.get("modality", "video")) == "image"

    def values(self) -> Iterator[tuple[str, Any]]:
        """Name and our value of every numeric stage that the case has."""
        stages = {
            "vision_features": lambda: self._vision,
            "interpolated": lambda: rearrange(self._features[self._shown], "f h w c -> f c h w"),
            "dts_out": lambda: rearrange(self._compressed, "g h w c -> g c 1 h w"),
            "projected": lambda: self._projected,
            "text_mlp": lambda: self._text_features,
            "before_rotary": lambda: _flat(self._windows),
            "window_attention": lambda: _flat(self._attended),
            "scores": lambda: self._selected.scores[0].reshape(-1),
            "after_rotary": lambda: _flat(self._selected.windows),
            "inputs_embeds": lambda: self._embeddings[0],
            "logits_lse": lambda: jax.nn.logsumexp(self._logits, axis=-1),
            "last_logits_head": lambda: self._logits[-1, : len(self.case["last_logits_head"])],
            "loss": lambda: self._loss_and_grads[0],
        }
        for stage, value in stages.items():
            if stage in self.case and self._has_inputs(stage):
                yield stage, value()

    def choices(self, *, limit: float) -> Iterator[Row]:
        """Kept indices and greedy tokens.

        A choice that differs from the reference's is right if ours scores it within rounding of
        the best: float32 may break such near ties either way.
        """
        if "kept" in self.case and self._has_inputs("kept"):
            yield self._kept_row(limit)
        if "logits_argmax" in self.case and self._has_inputs("logits_argmax"):
            yield _choice_row("logits_argmax", self._logits, self.case["logits_argmax"], limit)
        if "generated" in self.case and self._has_inputs("generated"):
            yield _choice_row("generated", self._decoded, self.case["generated"], limit)

    def gradients(self, tolerance: Tolerance) -> Iterator[Row]:
        """The gradient norm of every parameter that the case names."""
        if "grad_norms" not in self.case or not self._has_inputs("loss"):
            return
        norms = {
            item.name: float(np.linalg.norm(item.array.astype(np.float64)))
            for item in mapping.to_torch(jax.tree.map(as_lazy, self._loss_and_grads[1]))
        }
        names, references = self.case["grad_names"], self.case["grad_norms"]
        for name, reference in zip(map(str, names), map(float, references), strict=True):
            if name not in norms:
                yield Row(f"grad {name} (not a parameter)", np.inf, reference, ok=False)
                continue
            off = abs(norms[name] - reference)
            is_zero = reference < _ZERO_GRAD
            ok = off <= (tolerance.zero_grad if is_zero else tolerance.grad * reference)
            yield Row(f"grad {name}", off if is_zero else off / reference, reference, ok)

    def _has_inputs(self, stage: str) -> bool:
        needed = {
            "text_mlp": ("prompt_ids",),
            "before_rotary": ("time_ids",),
            "window_attention": ("time_ids",),
            "loss": ("frames_u8_24", "time_ids", "prompt_ids", "keep_ratio", "answer_ids"),
        }
        tower = ("vision_features", "interpolated", "dts_out", "projected")
        text = ("time_ids", "prompt_ids", "keep_ratio")
        names = () if stage in tower else needed.get(stage, text)
        visual = "frames_u8_24" in self.case or (stage not in tower and "projected" in self.case)
        return (visual or stage == "text_mlp") and all(name in self.case for name in names)

    # ---- frames to visual tokens -----------------------------------------------------------------

    @property
    def _shown(self) -> np.ndarray:
        """Which frames the file's tower stages hold: two frames, or a frame of two crops."""
        return np.array([0, FRAMES_PER_GROUP] if self.is_image else [0, 1])

    @functools.cached_property
    def _frames(self) -> np.ndarray:
        """uint8 [F, H, W, 3]: crops four times, and the last frame repeated to fill its group."""
        small = self.case["frames_u8_24"]
        scale = self.model.config.vision.image_size // small.shape[1]
        frames = repeat(small, "f h w c -> f (h p) (w q) c", p=scale, q=scale)
        if self.is_image:
            return np.repeat(frames, FRAMES_PER_GROUP, axis=0)
        missing = -len(frames) % FRAMES_PER_GROUP
        return np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])

    @functools.cached_property
    def _vision(self):
        shown = self._frames[self._shown]
        return self.model.run(lambda m, x: m.vision(x), shown, parts=_TOWER)

    @functools.cached_property
    def _features(self):
        return self.model.run("features", self._frames, parts=_TOWER)

    @functools.cached_property
    def _compressed(self):
        return self.model.run("compress", self._features, parts=_TOWER)

    @functools.cached_property
    def _projected(self):
        return self.model.run("project", self._compressed, parts=_TOWER)

    @functools.cached_property
    def _visual(self):
        """[1, G, 144, D]; the first crop of several, the whole picture, is dropped."""
        if "frames_u8_24" in self.case:
            projected = self._projected
        else:
            projected = jnp.asarray(self.case["projected"], self.model.dtype)
        first = int(self.is_image and len(projected) > 1)
        return patches.pool(projected, size=self.model.config.pool)[None, first:]

    # ---- selection -------------------------------------------------------------------------------

    @functools.cached_property
    def _stamps(self):
        window = STAMP_TOKENS + self.model.config.tokens_per_group
        return self.case["time_ids"].reshape(-1, window)[:, :STAMP_TOKENS]

    def _text(self, ids: np.ndarray) -> Text:
        count = num_kept(self._visual[0, :, :, 0].size, ratio=float(self.case["keep_ratio"]))
        return Text(
            tokens=ids[None].astype(np.int32),
            token_segments=np.ones((1, len(ids)), np.int32),
            stamp_ids=self._stamps[None].astype(np.int32),
            group_segments=np.ones((1, len(self._stamps)), np.int32),
            keep_counts=np.array([[count]], np.int32),
        )

    @functools.cached_property
    def _prompt(self) -> Text:
        return self._text(self.case["prompt_ids"])

    @functools.cached_property
    def _text_features(self):
        ids = self.case["prompt_ids"]
        words = ids[ids != IMAGE_TOKEN]
        return self.model.run(
            lambda m, x: m.selector.text_features(m.decoder.embed(x)), words, parts=_SELECTOR
        )

    @functools.cached_property
    def _windows(self):

        def windows(model, visual, stamps):
            return jnp.concatenate([model.decoder.embed(stamps), visual], axis=2)

        return self.model.run(windows, self._visual, self._stamps[None], parts=_SELECTOR)

    @functools.cached_property
    def _attended(self):
        """The stamps pass through."""
        windows = self._windows
        attended = self.model.run(lambda m, x: m.selector.window(x), windows, parts=_SELECTOR)
        return jnp.concatenate([windows[:, :, :STAMP_TOKENS], attended], axis=2)

    @functools.cached_property
    def _selected(self):
        return self.model.run("select", self._visual, self._prompt, parts=_SELECTOR)

    def _kept_row(self, limit: float) -> Row:
        scores = np.asarray(self._selected.scores[0].reshape(-1))
        kept = np.flatnonzero(self._selected.kept[0, :, STAMP_TOKENS:].reshape(-1))
        swapped = np.setxor1d(kept, self.case["kept"])
        threshold = scores[kept].min()
        off = float(np.abs(scores[swapped] - threshold).max(initial=0))
        ok = len(kept) == len(self.case["kept"]) and off <= limit
        return Row("kept", off, float(len(self.case["kept"])), ok)

    # ---- decoder ---------------------------------------------------------------------------------

    @functools.cached_property
    def _sequence(self):
        """Built from the file's kept indices where it has them, so one near tie stays one row."""
        selected = self._selected
        if "kept" in self.case:
            visual = np.zeros(selected.scores.size, bool)
            visual[self.case["kept"]] = True
            kept = selected.kept.at[:, :, STAMP_TOKENS:].set(visual.reshape(selected.scores.shape))
            selected = selected.replace(kept=kept)
        return self.model.run("splice", selected, self._prompt, parts=_SELECTOR)

    @functools.cached_property
    def _embeddings(self):
        return self._sequence.embeddings[:, : int(self._sequence.layout.lengths[0])]

    @functools.cached_property
    def _logits(self):
        """[L, V] of the prompt."""
        embeddings = self._embeddings

        def logits(model, x, positions):
            return model.logits(model.decoder(x, positions=positions))

        positions = jnp.arange(embeddings.shape[1])[None]
        return self.model.run(logits, embeddings, positions, parts=_DECODER)[0]

    @functools.cached_property
    def _decoded(self):
        """[8, V]: logits before each greedy token, through the cache, fed the file's tokens."""
        tokens = self.case["generated"]
        sequence = self._sequence
        slots = sequence.embeddings.shape[1] + len(tokens)
        decoder = self.model.config.decoder
        cache = KVCache.empty(decoder, batch=1, slots=slots, dtype=self._embeddings.dtype)
        last = sequence.layout.lengths - 1
        logits, cache = self.model.run("prefill", sequence.embeddings, cache, last, parts=_DECODER)
        rows = [logits[0]]
        for token in tokens[:-1]:
            ids = jnp.array([token], jnp.int32)
            logits, cache = self.model.run("decode_step", ids, cache, parts=_DECODER)
            rows.append(logits[0])
        return jnp.stack(rows)

    @functools.cached_property
    def _loss_and_grads(self):
        """Loss on the answer after the prompt, and the gradient of every parameter."""
        ids = np.concatenate([self.case["prompt_ids"], self.case["answer_ids"]])
        labels = ids.copy()
        labels[: len(self.case["prompt_ids"])] = IGNORE_LABEL
        frames = rearrange(self._frames, "(b g f) h w c -> b g f h w c", b=1, f=FRAMES_PER_GROUP)
        frames = frames[:, int(self.is_image and frames.shape[1] > 1) :]
        model = VideoXLPro(self.model.config)

        def loss(params, text):
            logits = model.apply({"params": params}, method=lambda m: m.logits(m(frames, text)))
            return cross_entropy(logits, labels=labels[None].astype(np.int32)).mean

        parts = (*_TOWER, "selector/", "decoder/")
        return jit(jax.value_and_grad(loss))(self.model.params(*parts), self._text(ids))


def _flat(windows: jax.Array) -> jax.Array:
    """[1, G, 154, D] -> [154 G, D]."""
    return rearrange(windows, "1 g n d -> (g n) d")


def _choice_row(stage: str, logits: jax.Array, chosen: np.ndarray, limit: float) -> Row:
    """How far below our best logit the reference's choice lies, at worst."""
    theirs = jnp.take_along_axis(logits, jnp.asarray(chosen)[:, None], axis=-1)[:, 0]
    off = float((logits.max(axis=-1) - theirs).max())
    scale = max(1.0, float(jnp.abs(logits).max()))
    return Row(stage, off, float(np.max(chosen)), ok=off <= 2 * limit * scale)
