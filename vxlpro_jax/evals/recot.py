"""Measures what the compressor learned in stage 1, on held-out clips.

Shapes: `G` groups, `f` frames of a group (4), `P` places, `C` channels, `S` side of a frame.
"""

import dataclasses
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
from jax.sharding import PartitionSpec
from matplotlib.figure import Figure

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, TrainConfig
from vxlpro_jax.data.loader import build
from vxlpro_jax.data.synthetic.clips import DIRECTIONS, motion_clips
from vxlpro_jax.evals import linear_probe
from vxlpro_jax.evals.recot_baselines import impute
from vxlpro_jax.models import recot
from vxlpro_jax.ops import patches
from vxlpro_jax.ops.mask_policies.motion import motion_scores
from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.sharding import activations
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.files import write_atomically
from vxlpro_jax.utils.jit import jit

REPORT, PICTURE = "recot.json", "recot.png"
# The same for all runs, so that all policies and ratios can be compared.
_MASK = {"policy": "random", "mask_ratio": (0.75, 0.75)}
_AT_ONCE = 16
_DRAWS = 16  # Masks per group: by chance a share of 1/4 then deviates by 0.11.
_SHOWN = 4


class Sizes(NamedTuple):
    """Amount of data: held-out `groups`, and clips with which the probe is trained and tested."""

    groups: int = 32
    probe_train: int = 320
    probe_test: int = 160


def evaluate(
    params: dict, *, config: TrainConfig, workdir: Path, step: int, sizes: Sizes | None = None
) -> dict:
    """Evaluates the compressor and writes `recot.json` and `recot.png` into `workdir`.

    Errors are mean squares over hidden tokens, which have variance 1. A figure is None if no sample
    applies to it.

    Args:
        params: parameters `vision`, `dts` and `recot`.
        config: config of the run.
        workdir: existing folder.
        step: step of the parameters, which is written with the figures.
        sizes: amount of data.

    Returns:
        `reconstruction`, under the same random mask of three quarters for every policy: error of
        the `model`, of two rules without learning (`recot_baselines`), and of linear read-outs of
        the `untrained` compressor; `trained_read_out`, that of the trained compressor; `own_mask`,
        error of the model under its training masks; `masks`, the pattern of these and of random
        masks (see `mask_pattern`); `shuffle_similarity`, mean cosine between the compressed tokens
        of a group and of its shuffled frames; `direction_probe`, accuracies of a linear read-out of
        the direction of motion from compressed groups and from one frame (chance 0.25).
    """
    sizes = sizes or Sizes()
    read = functools.partial(
        build.read_first_groups, image_size=config.model.vision.image_size, count=sizes.groups
    )
    known, held_out = read(config.data), read(build.evaluation_data(config.data))
    model = Model(params, config)
    fresh = Model(params | {"dts": _fresh_dts(config)}, config)
    restored, own = model.restore(held_out), model.restore_own(held_out)
    report = {
        "step": step,
        "reconstruction": {
            **{who: _hidden_mean(error, restored) for who, error in _errors(restored).items()},
            "untrained": read_out_error(fresh, known=known, asked=held_out),
        },
        "trained_read_out": read_out_error(model, known=known, asked=held_out),
        "own_mask": _hidden_mean(_errors(own)["model"], own),
        "masks": {
            "own": mask_pattern(model.visible_share(held_out), targets=own.targets),
            "random": mask_pattern(model.visible_share(held_out, own=False), targets=own.targets),
        },
        "shuffle_similarity": shuffle_similarity(model.compress, held_out),
        "direction_probe": direction_probe(model.compress, sizes, side=held_out.shape[2]),
    }
    if jax.process_index() == 0:
        draw(held_out, restored=own, path=workdir / PICTURE)
        write_atomically(workdir / REPORT, json.dumps(report, indent=2))
    return report


class RestoredArrays(NamedTuple):
    """The fields of `recot.Restored` as arrays on the host."""

    targets: np.ndarray
    predicted: np.ndarray
    visible: np.ndarray
    compressed: np.ndarray


class Model:
    """ReCoT with its parameters; accepts any number of groups and processes a few at a time."""

    def __init__(self, params: dict, config: TrainConfig):
        self._params = tree.cast(params, config.compute_dtype)
        common = dataclasses.replace(config.recot, **_MASK)
        self._model = recot.Recot(config.model, config.recot)
        self._common = recot.Recot(config.model, common)

    def restore(self, frames: np.ndarray) -> RestoredArrays:
        """Restores groups, uint8 [G, f, S, S, 3], under random masks that are always the same."""
        return _arrays(self._map(self._common, _restore, frames))

    def restore_own(self, frames: np.ndarray) -> RestoredArrays:
        """Restores groups as `restore` does, but under masks of the run's own policy."""
        return _arrays(self._map(self._model, _restore, frames))

    def visible_share(self, frames: np.ndarray, *, own: bool = True) -> np.ndarray:
        """Computes how often each token is visible, [G, f, P], under own or random masks."""
        model = self._model if own else self._common
        features = self._map(model, _features, frames)
        draws = [self._map(model, _choose, features, draw=draw) for draw in range(_DRAWS)]
        return np.mean(draws, axis=0)

    def compress(self, frames: np.ndarray) -> np.ndarray:
        """Compresses uint8 [G, f, S, S, 3] to [G, P, C] without hiding tokens."""
        return self._map(self._model, _compress, frames)

    def _map(self, model, method, frames, *, draw=0):
        """Maps chunks of one size; the last is filled up with copies of the first group."""
        run = _compiled(model, method, is_spread=not jax.sharding.get_abstract_mesh().empty)
        size = math.lcm(_AT_ONCE, activations.axis_size(activations.FRAME_AXES))
        filled = np.concatenate([frames, np.repeat(frames[:1], -len(frames) % size, axis=0)])
        parts = [
            run(self._params, filled[at : at + size], jax.random.fold_in(jax.random.key(at), draw))
            for at in range(0, len(filled), size)
        ]
        return jax.tree.map(lambda *x: _whole(x)[: len(frames)], *parts)


def _arrays(restored: recot.Restored) -> RestoredArrays:
    fields = (restored.targets, restored.predicted, restored.visible, restored.compressed)
    return RestoredArrays(*map(np.asarray, fields))


def _whole(parts):
    return np.concatenate([np.asarray(at_least_float32(part)) for part in parts])


def _restore(model, frames, key):
    return model(model.features(frames), key=key)


def _features(model, frames, key):
    return model.features(frames)


def _choose(model, features, key):
    return model.recot.choose(features, key=key)


def _compress(model, frames, key):
    return model.compress(model.features(frames))


@functools.cache
def _compiled(model: recot.Recot, method: Callable, *, is_spread: bool) -> Callable:
    """Compiles once for all parameters; on a mesh every process gets the whole result."""

    def apply(params, frames, key):
        return model.apply({"params": params}, frames, key, method=method)

    return jit(apply, out_shardings=PartitionSpec() if is_spread else None)


def _fresh_dts(config: TrainConfig) -> dict:
    """Draws an untrained compressor with another seed."""

    def init(key):
        return recot.init_params(config.model, options=config.recot, key=key)["dts"]

    return jit(init)(jax.random.key(config.seed + 1))


def _errors(restored: RestoredArrays) -> dict[str, np.ndarray]:
    """Computes the squared error of each token, [G, f, P], of the model and of the rules."""
    guesses = {"model": restored.predicted}
    targets, visible = jnp.asarray(restored.targets), jnp.asarray(restored.visible)
    for rule in ("copy_mean", "interpolate"):
        guesses[rule] = np.asarray(impute(targets, visible=visible, rule=rule))
    return {who: np.square(guess - restored.targets).mean(-1) for who, guess in guesses.items()}


def _hidden_mean(error: np.ndarray, restored: RestoredArrays) -> float:
    return float(error[restored.visible == 0].mean())


def mask_pattern(share: np.ndarray, *, targets: np.ndarray) -> dict[str, float]:
    """Describes how a policy's masks differ from random ones.

    Args:
        share: [G, f, P], how often each token is visible.
        targets: [G, f, P, C], normalised features.

    Returns:
        `unevenness`, the standard deviation of a group's shares, which is small for random masks;
        `motion`, the correlation of the shares with how much each token changes between frames.
    """
    motion = np.asarray(motion_scores(jnp.asarray(targets)))
    shares, changes = (x.reshape(len(x), -1) for x in (share, motion))
    shares, changes = (x - x.mean(1, keepdims=True) for x in (shares, changes))
    spread = shares.std(1) * changes.std(1)
    related = (shares * changes).mean(1)[spread > 0] / spread[spread > 0]
    return {
        "unevenness": float(shares.std(1).mean()),
        "motion": float(related.mean()) if related.size else 0.0,
    }


def read_out_error(model: Model, *, known: np.ndarray, asked: np.ndarray) -> float:
    """Fits linear read-outs of compressed tokens, one per frame, to `known`; tests on `asked`."""
    train, test = model.restore(known), model.restore(asked)
    errors = []
    for frame in range(FRAMES_PER_GROUP):
        learned, hidden = train.visible[:, frame] == 0, test.visible[:, frame] == 0
        read_out = linear_probe.fit(train.compressed[learned], train.targets[:, frame][learned])
        error = read_out(test.compressed[hidden]) - test.targets[:, frame][hidden]
        errors.append(np.square(error).mean(-1))
    return float(np.concatenate(errors).mean())


def shuffle_similarity(
    compress: Callable[[np.ndarray], np.ndarray], frames: np.ndarray
) -> float | None:
    """Averages the cosine of compressed tokens of a group and its shuffle, if frames differ."""
    rng = np.random.default_rng(0)
    orders = np.stack([_derangement(rng) for _ in frames])
    shuffled = np.take_along_axis(frames, orders[:, :, None, None, None], axis=1)
    moving = (frames != shuffled).any(axis=(1, 2, 3, 4))
    if not moving.any():
        return None
    a, b = compress(frames[moving]), compress(shuffled[moving])
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / norms).mean())


def _derangement(rng: np.random.Generator) -> np.ndarray:
    """Draws an order of the frames in which none is in its own place."""
    while True:
        order = rng.permutation(FRAMES_PER_GROUP)
        if (order != np.arange(FRAMES_PER_GROUP)).all():
            return order


def direction_probe(
    compress: Callable[[np.ndarray], np.ndarray], sizes: Sizes, *, side: int
) -> dict[str, float]:
    """Computes accuracies of linear read-outs from compressed clips and from one frame of each."""
    clips = motion_clips(sizes.probe_train + sizes.probe_test, side=side)
    one = np.take_along_axis(clips.frames, clips.picked[:, None, None, None, None], axis=1)
    still = np.repeat(one, FRAMES_PER_GROUP, axis=1)
    return {
        name: linear_probe.accuracy(
            _pooled(compress(frames)),
            labels=clips.labels,
            num_train=sizes.probe_train,
            num_classes=len(DIRECTIONS),
        )
        for name, frames in (("compressed", clips.frames), ("single_frame", still))
    }


def _pooled(compressed: np.ndarray) -> np.ndarray:
    """Pools as in the release, whatever the run does, and flattens: [G, P, C] -> [G, P/4 C]."""
    pooled = patches.pool(jnp.asarray(compressed), size=2)
    return np.asarray(rearrange(pooled, "g n c -> g (n c)"))


def draw(frames: np.ndarray, *, restored: RestoredArrays, path: Path) -> None:
    """Draws some groups: above, the compressor's input; below, each hidden token's error.

    Args:
        frames: uint8 [G, f, S, S, 3].
        restored: results for these frames.
        path: path of the PNG.
    """
    error, hidden = _errors(restored)["model"], restored.visible == 0
    figure = Figure(figsize=(2 * FRAMES_PER_GROUP, 4 * _SHOWN), layout="constrained")
    panels = figure.subplots(2 * _SHOWN, FRAMES_PER_GROUP, squeeze=False)
    chosen = np.linspace(0, len(frames) - 1, _SHOWN, dtype=int)
    scale = {"cmap": "viridis", "vmin": 0, "vmax": np.quantile(error[hidden], 0.98)}
    place = {"extent": (0, 1, 1, 0)}
    for row, group in enumerate(chosen):
        for frame in range(FRAMES_PER_GROUP):
            seen, lost = panels[2 * row, frame], panels[2 * row + 1, frame]
            covered = _square(hidden[group, frame])
            seen.imshow(frames[group, frame], **place)
            seen.imshow(np.where(covered, 0.5, np.nan), cmap="spring", vmin=0, vmax=1, **place)
            seen.set_title(f"group {group}, frame {frame}", fontsize=8)
            wrong = np.where(covered, _square(error[group, frame]), np.nan)
            drawn = lost.imshow(wrong, **scale, **place)
    for panel in panels.flat:
        panel.set_axis_off()
    figure.colorbar(drawn, ax=panels, label="squared error of a hidden token", shrink=0.5)
    figure.savefig(path, dpi=100)


def _square(places: np.ndarray) -> np.ndarray:
    side = math.isqrt(len(places))
    return places.reshape(side, side)
