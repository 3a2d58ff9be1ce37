"""What stage 1 taught the compressor, on clips that it has not seen.

Shapes: `G` groups, `f` frames of a group (4), `P` places, `C` channels, `S` side of a frame.
"""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from matplotlib.figure import Figure

from vxlpro_jax.config import FRAMES_PER_GROUP, DataConfig, TrainConfig
from vxlpro_jax.data import pipeline, synthetic
from vxlpro_jax.evals import probe
from vxlpro_jax.jit import jit
from vxlpro_jax.models import recot
from vxlpro_jax.ops import grids
from vxlpro_jax.ops.filling import fill

REPORT, PICTURE = "recot.json", "recot.png"
_AT_ONCE = 16
_SHOWN = 4


class Sizes(NamedTuple):
    """How much is measured: held-out `groups`, clips that the probe learns from and is asked."""

    groups: int = 32
    probe_train: int = 320
    probe_test: int = 160


FULL = Sizes()


def evaluate(params: dict, *, config: TrainConfig, workdir: Path, sizes: Sizes = FULL) -> dict:
    """Measures the compressor and writes `recot.json` and `recot.png` into `workdir`.

    Args:
        params: `vision`, `dts` and `recot`.
        config: of the run.
        workdir: exists.
        sizes: how much is measured.

    Returns:
        `reconstruction`, mean squared error of hidden tokens (of variance 1) by who restored them:
        the model, two rules that learn nothing (see `ops.filling`), and the best linear read-out of
        an untrained compressor; `shuffle_similarity`, mean cosine of the compressed tokens of a
        group and of its shuffle; `direction_probe`, accuracies of reading the direction of motion
        linearly from compressed groups and from one frame (chance 0.25).
    """
    model = _Model(params, config)
    known, held_out = (
        _groups(data, config=config, count=sizes.groups)
        for data in (config.data, pipeline.held_out(config.data))
    )
    restored = model.restore(held_out)
    errors = _errors(restored)
    report = {
        "reconstruction": {
            **{who: _hidden_mean(error, restored) for who, error in errors.items()},
            "untrained": _untrained(params, config=config, known=known, held_out=held_out),
        },
        "shuffle_similarity": _shuffle_similarity(model, held_out),
        "direction_probe": _direction_probe(model, sizes, side=config.model.vision.image_size),
    }
    draw(held_out, visible=restored.visible, error=errors["model"], path=workdir / PICTURE)
    partial = workdir / f"{REPORT}.tmp"
    partial.write_text(json.dumps(report, indent=2))
    partial.replace(workdir / REPORT)
    return report


class _Model:
    """ReCoT with its parameters, on 16 groups at a time."""

    def __init__(self, params: dict, config: TrainConfig):
        self._params = jax.tree.map(lambda x: x.astype(config.compute_dtype), params)
        self._model = recot.Recot(config.model, config.recot)
        self._restore = jit(self._apply(lambda m, x: m(m.features(x), key=jax.random.key(0))))
        self._compress = jit(self._apply(lambda m, x: m.compress(m.features(x))))

    def _apply(self, method: Callable) -> Callable:
        return lambda params, frames: self._model.apply({"params": params}, frames, method=method)

    def restore(self, frames: np.ndarray) -> recot.Restored:
        """uint8 [G, f, S, S, 3] to what `Recot` returns, under masks that are always the same."""
        return self._map(self._restore, frames)

    def compress(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [G, f, S, S, 3] to [G, P, C], nothing hidden."""
        return self._map(self._compress, frames)

    def _map(self, function, frames):
        starts = range(0, len(frames), _AT_ONCE)
        parts = [function(self._params, frames[at : at + _AT_ONCE]) for at in starts]
        return jax.tree.map(lambda *x: np.concatenate(x).astype(np.float32), *parts)


def _groups(data: DataConfig, *, config: TrainConfig, count: int) -> np.ndarray:
    """The first `count` groups of frames that the data file gives, uint8 [G, f, S, S, 3]."""
    size = config.model.vision.image_size
    batches = pipeline.build_pipeline(data, image_size=size, seed=config.seed, with_text=False)
    found: list[np.ndarray] = []
    while len(found) < count:
        batch = next(batches)
        found.extend(batch["frames"][batch["group_segments"] > 0])
    batches.close()
    return np.stack(found[:count])


def _errors(restored: recot.Restored) -> dict[str, np.ndarray]:
    """Squared error of each token, [G, f, P], of the model and of the rules."""
    guesses = {"model": restored.predicted}
    for rule in ("copy_mean", "interpolate"):
        guesses[rule] = np.asarray(fill(restored.targets, visible=restored.visible, rule=rule))
    return {who: np.square(guess - restored.targets).mean(-1) for who, guess in guesses.items()}


def _hidden_mean(error: np.ndarray, restored: recot.Restored) -> float:
    return float(error[restored.visible == 0].mean())


def _untrained(
    params: dict, *, config: TrainConfig, known: np.ndarray, held_out: np.ndarray
) -> float:
    """Error on `held_out` of linear read-outs, one a frame, of a compressor before any training."""
    options, key = config.recot, jax.random.key(config.seed + 1)
    init = jit(functools.partial(recot.init_params, config.model, options=options))
    model = _Model(params | {"dts": init(key=key)["dts"]}, config)
    train, test = model.restore(known), model.restore(held_out)
    errors = []
    for frame in range(FRAMES_PER_GROUP):
        learned, asked = train.visible[:, frame] == 0, test.visible[:, frame] == 0
        read_out = probe.fit(train.compressed[learned], train.targets[:, frame][learned])
        error = read_out(test.compressed[asked]) - test.targets[:, frame][asked]
        errors.append(np.square(error).mean(-1))
    return float(np.concatenate(errors).mean())


def _shuffle_similarity(model: _Model, frames: np.ndarray) -> float:
    """Mean cosine between a group's compressed tokens and its shuffle's, where frames differ."""
    rng = np.random.default_rng(0)
    orders = np.stack([_derangement(rng) for _ in frames])
    shuffled = np.take_along_axis(frames, orders[:, :, None, None, None], axis=1)
    moving = (frames != shuffled).any(axis=(1, 2, 3, 4))
    a, b = (model.compress(x)[moving] for x in (frames, shuffled))
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / norms).mean())


def _derangement(rng: np.random.Generator) -> np.ndarray:
    """An order of the frames that leaves none in its place."""
    while True:
        order = rng.permutation(FRAMES_PER_GROUP)
        if (order != np.arange(FRAMES_PER_GROUP)).all():
            return order


def _direction_probe(model: _Model, sizes: Sizes, *, side: int) -> dict[str, float]:
    clips = synthetic.motion_clips(sizes.probe_train + sizes.probe_test, side=side)
    one = np.take_along_axis(clips.frames, clips.picked[:, None, None, None, None], axis=1)
    still = np.repeat(one, FRAMES_PER_GROUP, axis=1)
    return {
        name: probe.accuracy(
            _pooled(model.compress(frames)),
            labels=clips.labels,
            num_train=sizes.probe_train,
            num_classes=len(synthetic.DIRECTIONS),
        )
        for name, frames in (("compressed", clips.frames), ("single_frame", still))
    }


def _pooled(compressed: np.ndarray) -> np.ndarray:
    """What reaches the projector's pooling, flat: [G, P, C] -> [G, P/4 C]."""
    return np.asarray(rearrange(grids.pool_2x2(jnp.asarray(compressed)), "g n c -> g (n c)"))


def draw(frames: np.ndarray, *, visible: np.ndarray, error: np.ndarray, path: Path) -> None:
    """A picture of some groups: above what the compressor saw, below each hidden token's error.

    Args:
        frames: uint8 [G, f, S, S, 3].
        visible: [G, f, P].
        error: [G, f, P].
        path: PNG to write.
    """
    figure = Figure(figsize=(2 * FRAMES_PER_GROUP, 4 * _SHOWN), layout="constrained")
    panels = figure.subplots(2 * _SHOWN, FRAMES_PER_GROUP, squeeze=False)
    chosen = np.linspace(0, len(frames) - 1, _SHOWN, dtype=int)
    top = np.quantile(error[visible == 0], 0.98)
    for row, group in enumerate(chosen):
        for frame in range(FRAMES_PER_GROUP):
            seen, lost = panels[2 * row, frame], panels[2 * row + 1, frame]
            shown = _square(visible[group, frame])
            extent = (0, 1, 1, 0)
            seen.imshow(frames[group, frame], extent=extent)
            seen.imshow(np.where(shown, np.nan, 0), extent=extent, cmap="gray", alpha=0.8)
            seen.set_title(f"group {group}, frame {frame}", fontsize=8)
            wrong = np.where(shown, np.nan, _square(error[group, frame]))
            drawn = lost.imshow(wrong, extent=extent, cmap="viridis", vmin=0, vmax=top)
    for panel in panels.flat:
        panel.set_axis_off()
    figure.colorbar(drawn, ax=panels, label="squared error of a hidden token", shrink=0.5)
    figure.savefig(path, dpi=100)


def _square(places: np.ndarray) -> np.ndarray:
    side = math.isqrt(len(places))
    return places.reshape(side, side)
