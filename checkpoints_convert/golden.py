"""Runs a converted model on inputs of the released code and compares every stage.

A golden file (`.npz`) holds one video or picture, a prompt, and the released PyTorch code's float64
results for them. Stages are computed one after another from our own earlier results, or from the
file's if it lacks the inputs; only the parameters that a stage needs are in memory. Fields that the
file lacks are skipped, and unknown fields are ignored.

Shapes: `F` frames, `G` groups kept, `T` prompt ids, `N = 144 G`, `L` decoder slots in use.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from checkpoints_convert import mapping
from checkpoints_convert.tolerances import Tolerance
from vxlpro_jax.checkpoints.array_store import as_lazy
from vxlpro_jax.checkpoints.params import locate, read_model_config, read_params
from vxlpro_jax.config.schema import FRAMES_PER_GROUP, IGNORE_LABEL, IMAGE_TOKEN, STAMP_TOKENS
from vxlpro_jax.inference.loading import UNSTACKED, on_device, without_scan
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.video_xl_pro import Text, VideoXLPro, abstract_params, jit_method
from vxlpro_jax.ops import patches
from vxlpro_jax.ops.token_selection import num_kept
from vxlpro_jax.training.losses import cross_entropy
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.jit import jit

Case = Mapping[str, np.ndarray]


class StageRow(NamedTuple):
    """One comparison.

    Attributes:
        stage: a field of the golden file, or the torch name of a gradient.
        difference: largest absolute difference; for a gradient norm relative to the reference
            unless that is zero.
        reference: largest absolute reference value.
        ok: whether the difference is within tolerance.
    """

    stage: str
    difference: float
    reference: float
    ok: bool


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
    """Reads the arrays of a golden file.

    Raises:
        InputError: the file does not exist or is not an `.npz` of plain arrays.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise InputError(f"Golden file {file} does not exist.") from error
    except (ValueError, OSError, AttributeError, TypeError) as error:
        raise InputError(f"{file} is not an .npz of plain arrays ({error}).") from error


def compare(
    directory: str | Path, case: Case, *, dtype: str, tolerance: Tolerance
) -> list[StageRow]:
    """Compares all stages that `case` has.

    Args:
        directory: model folder or training folder.
        case: result of `read_case`.
        dtype: dtype to compute in; float64 needs `jax_enable_x64`.
        tolerance: tolerance within which a stage is right.

    Returns:
        The rows; none if the case has no stage with its inputs.

    Raises:
        InputError: the folder cannot be read.
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


def to_markdown(rows: Sequence[StageRow]) -> str:
    """Formats a table with one row per stage."""
    lines = ["| stage | max abs difference | max abs reference | ok |", "| --- | --- | --- | --- |"]
    for row in rows:
        ok = "ok" if row.ok else "FAIL"
        lines.append(f"| {row.stage} | {row.difference:.3g} | {row.reference:.6g} | {ok} |")
    return "\n".join(lines)


def to_json(rows: Sequence[StageRow]) -> dict[str, Any]:
    """Returns the report for `json.dump`: `ok` and `stages`, a list of the rows' fields."""
    return {"ok": all(row.ok for row in rows), "stages": [row._asdict() for row in rows]}


def _row(stage: str, value: Any, reference: np.ndarray, *, limit: float) -> StageRow:
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    largest = float(np.abs(reference).max(initial=0))
    if value.shape != reference.shape:
        return StageRow(f"{stage} {value.shape} != {reference.shape}", np.inf, largest, ok=False)
    difference = float(np.abs(value - reference).max(initial=0))
    return StageRow(stage, difference, largest, ok=difference <= limit * max(1.0, largest))


class _Model:
    """Jitted methods of the model, each run with only the parameters that it needs.

    A parameter is cast as it is read, and the decoder's layers are separate arrays, since a scan
    over stacked ones copies them on a CPU; so memory never holds a parameter twice.
    """

    def __init__(self, directory: str | Path, dtype: str):
        located = locate(directory)
        self.stored = read_model_config(located.root)
        self.config = without_scan(self.stored)
        self.dtype = dtype
        self._folder = located.params
        self._like = on_device(abstract_params(self.stored))
        self._kept: tuple[tuple[str, ...], dict] | None = None

    def run(self, method: str | Callable, *inputs: Any, parts: tuple[str, ...]) -> Any:
        """Applies a method of the model; the most recently read parameters stay in memory."""
        if self._kept is None or self._kept[0] != parts:
            self._kept = None
            self._kept = (parts, self._read(parts, unstack=UNSTACKED))
        return jit_method(self.config, method)(self._kept[1], *inputs)

    def gradients(self, loss: Callable, *inputs: Any) -> dict:
        """Returns the gradients of `loss(bound model, *inputs)` by parameter, layers stacked."""
        self._kept = None
        apply = functools.partial(VideoXLPro(self.stored).apply, method=loss)
        gradient = jit(jax.grad(lambda params, *inputs: apply({"params": params}, *inputs)))
        return gradient(self._read(("",), unstack=None), *inputs)

    def _read(self, parts: tuple[str, ...], *, unstack: str | None) -> dict:
        return read_params(
            self._folder,
            like=self._like,
            dtype=self.dtype,
            only=lambda path: path.startswith(parts),
            unstack=unstack,
        )


_TOWER = ("vision/", "dts/", "projector/")
_SELECTOR = ("selector/", "decoder/embed")
_LANGUAGE = ("selector/", "decoder/")


class _Stages:
    """The stages of one case, each computed once."""

    def __init__(self, model: _Model, case: Case):
        self.model = model
        self.case = case
        self.is_image = str(case.get("modality", "video")) == "image"

    def values(self) -> Iterator[tuple[str, Any]]:
        """Yields name and our value of every numeric stage that the case has."""
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
            "loss": lambda: self._loss,
        }
        for stage, value in stages.items():
            if stage in self.case and self._has_inputs(stage):
                yield stage, value()

    def choices(self, *, limit: float) -> Iterator[StageRow]:
        """Compares kept indices and greedy tokens.

        A choice that differs from the reference's is right if our score of it is within rounding of
        the best: float32 may break such near ties either way.
        """
        if "kept" in self.case and self._has_inputs("kept"):
            yield self._kept_row(limit)
        if "logits_argmax" in self.case and self._has_inputs("logits_argmax"):
            yield _choice_row("logits_argmax", self._logits, self.case["logits_argmax"], limit)
        if "generated" in self.case and self._has_inputs("generated"):
            yield _choice_row("generated", self._decoded, self.case["generated"], limit)

    def gradients(self, tolerance: Tolerance) -> Iterator[StageRow]:
        """Compares the gradient norm of every parameter that the case names."""
        if "grad_norms" not in self.case or not self._has_inputs("loss"):
            return
        norms = {
            item.name: float(np.linalg.norm(item.array.astype(np.float64)))
            for item in mapping.to_torch(jax.tree.map(as_lazy, self._gradients))
        }
        names, references = self.case["grad_names"], self.case["grad_norms"]
        for name, reference in zip(map(str, names), map(float, references), strict=True):
            if name not in norms:
                yield StageRow(f"grad {name} (not a parameter)", np.inf, reference, ok=False)
                continue
            off = abs(norms[name] - reference)
            is_zero = reference < _ZERO_GRAD
            ok = off <= (tolerance.zero_grad if is_zero else tolerance.grad * reference)
            yield StageRow(f"grad {name}", off if is_zero else off / reference, reference, ok)

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
        """Indices of the frames in the file's tower stages: two frames, or a frame of two crops."""
        return np.array([0, FRAMES_PER_GROUP] if self.is_image else [0, 1])

    @functools.cached_property
    def _frames(self) -> np.ndarray:
        """uint8 [F, H, W, 3]: crops repeated four times; the last frame to a full group."""
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
        """[1, G, 144, D]; of several crops the first, which is the whole picture, is dropped."""
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
            tokens=jnp.asarray(ids[None], jnp.int32),
            token_segments=jnp.ones((1, len(ids)), jnp.int32),
            stamp_ids=jnp.asarray(self._stamps[None], jnp.int32),
            group_segments=jnp.ones((1, len(self._stamps)), jnp.int32),
            keep_counts=jnp.array([[count]], jnp.int32),
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
        """Attended windows; the stamps pass through unchanged."""
        windows = self._windows
        attended = self.model.run(lambda m, x: m.selector.window(x), windows, parts=_SELECTOR)
        return jnp.concatenate([windows[:, :, :STAMP_TOKENS], attended], axis=2)

    @functools.cached_property
    def _selected(self):
        return self.model.run("select", self._visual, self._prompt, parts=_SELECTOR)

    def _kept_row(self, limit: float) -> StageRow:
        scores = np.asarray(self._selected.scores[0].reshape(-1))
        kept = np.flatnonzero(self._selected.kept[0, :, STAMP_TOKENS:].reshape(-1))
        swapped = np.setxor1d(kept, self.case["kept"])
        threshold = scores[kept].min()
        off = float(np.abs(scores[swapped] - threshold).max(initial=0))
        ok = len(kept) == len(self.case["kept"]) and off <= limit
        return StageRow("kept", off, float(len(self.case["kept"])), ok)

    # ---- decoder ---------------------------------------------------------------------------------

    @functools.cached_property
    def _sequence(self):
        """Built from the file's kept indices if present, so that one near tie stays one row."""
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
        """[L, V], logits of the prompt."""
        embeddings = self._embeddings

        def logits(model, x, positions):
            return model.logits(model.decoder(x, positions=positions))

        positions = jnp.arange(embeddings.shape[1])[None]
        return self.model.run(logits, embeddings, positions, parts=_LANGUAGE)[0]

    @functools.cached_property
    def _decoded(self):
        """[8, V]: logits before each greedy token, through the cache, given the file's tokens."""
        tokens = self.case["generated"]
        sequence = self._sequence
        slots = sequence.embeddings.shape[1] + len(tokens)
        decoder = self.model.config.decoder
        cache = KVCache.empty(decoder, batch=1, slots=slots, dtype=self._embeddings.dtype)
        last = sequence.layout.lengths - 1
        logits, cache = self.model.run("prefill", sequence.embeddings, cache, last, parts=_LANGUAGE)
        rows = [logits[0]]
        for token in tokens[:-1]:
            ids = jnp.array([token], jnp.int32)
            logits, cache = self.model.run("decode_step", ids, cache, parts=_LANGUAGE)
            rows.append(logits[0])
        return jnp.stack(rows)

    @property
    def _answered(self) -> tuple[Text, np.ndarray]:
        """The prompt followed by the answer, and int32 [1, T] labels of the answer's ids."""
        prompt, answer = self.case["prompt_ids"], self.case["answer_ids"]
        labels = np.concatenate([np.full_like(prompt, IGNORE_LABEL), answer])
        return self._text(np.concatenate([prompt, answer])), labels[None].astype(np.int32)

    @functools.cached_property
    def _loss(self):
        return self.model.run(_loss_of_tokens, self._visual, *self._answered, parts=_LANGUAGE)

    @functools.cached_property
    def _gradients(self):
        frames = rearrange(self._frames, "(b g f) h w c -> b g f h w c", b=1, f=FRAMES_PER_GROUP)
        frames = frames[:, int(self.is_image and frames.shape[1] > 1) :]
        return self.model.gradients(_loss_of_frames, frames, *self._answered)


def _loss_of_frames(model: VideoXLPro, frames: jax.Array, text: Text, labels: jax.Array):
    return _loss_of_tokens(model, model.encode(frames), text, labels)


def _loss_of_tokens(model: VideoXLPro, visual: jax.Array, text: Text, labels: jax.Array):
    """Computes the mean loss of the labels, from visual tokens [1, G, N, D]."""
    return cross_entropy(model.logits(model.read(visual, text)), labels=labels).mean


def _flat(windows: jax.Array) -> jax.Array:
    """Reshapes [1, G, 154, D] -> [154 G, D]."""
    return rearrange(windows, "1 g n d -> (g n) d")


def _choice_row(stage: str, logits: jax.Array, chosen: np.ndarray, limit: float) -> StageRow:
    """Reports the largest gap between our best logit and that of the reference's choice."""
    theirs = jnp.take_along_axis(logits, jnp.asarray(chosen)[:, None], axis=-1)[:, 0]
    off = float((logits.max(axis=-1) - theirs).max())
    scale = max(1.0, float(jnp.abs(logits).max()))
    return StageRow(stage, off, float(np.max(chosen)), ok=off <= 2 * limit * scale)
