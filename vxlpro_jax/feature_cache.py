"""Runs a frozen tower once over all data, so that training reads its features instead of frames.

Shapes: `B` rows of this process, `G` groups a row, `g` groups of one file, `P` places, `C` width.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from einops import rearrange
from jax.experimental import multihost_utils

from vxlpro_jax import cli, sharding, tree
from vxlpro_jax.config import FRAMES_PER_GROUP, InputError, TrainConfig
from vxlpro_jax.data.features import FeatureFiles, Visual
from vxlpro_jax.data.pipeline import BatchSource
from vxlpro_jax.data.schema import Record
from vxlpro_jax.data.transforms import SampleReader
from vxlpro_jax.jit import jit
from vxlpro_jax.models.recot import Recot


def fill(
    vision: dict, *, config: TrainConfig, source: BatchSource, to_devices: Callable
) -> FeatureFiles:
    """Writes the features that `config.data.feature_cache` lacks.

    Files that cannot be read are left out; training finds and names them.

    Args:
        vision: parameters of the tower.
        config: of the run.
        source: of the run's batches.
        to_devices: this process's rows of a batch to a global array.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(config.data.feature_cache).expanduser() / _name(vision, config)
    grid, width = config.model.dts.grid, config.model.vision.width
    files = FeatureFiles(folder, config.compute_dtype, places=grid**2, width=width)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = _missing(files, source)
        multihost_utils.sync_global_devices("every process knows what is missing")
        _encode(missing, files, vision, config=config, source=source, to_devices=to_devices)
    except OSError as error:
        raise InputError(
            f"Features cannot be written to {folder} ({error}): set data.feature_cache to a folder"
            " that can."
        ) from error
    return files


def _name(vision: dict, config: TrainConfig) -> str:
    """Of the tower's weights, and of all else that the features depend on."""
    sums = [int(total) for total in jax.tree.leaves(jit(tree.checksums)(vision))]
    shape = (config.model.vision.image_size, config.model.dts.grid, config.data.max_frames)
    text = json.dumps([sums, shape, config.compute_dtype])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _missing(files: FeatureFiles, source: BatchSource) -> list[int]:
    """The index of one record of each visual that has no features yet."""
    missing = {}
    for index in range(len(source.records)):
        try:
            record = source.records[index]
            key = source.reader.visual_key(record)
        except InputError:
            continue
        if record.has_visual and not files.path(key).exists():
            missing[key] = index
    return list(missing.values())


def _encode(missing: Sequence, files: FeatureFiles, vision: dict, *, config, source, to_devices):
    """A batch at a time, every process its rows of it, as in training."""
    encode, shape = _encoder(config), source.reader.shape
    side = shape.image_size
    empty = np.zeros((len(source.rows), shape.groups, FRAMES_PER_GROUP, side, side, 3), np.uint8)
    starts = range(0, len(missing), source.batch_size)
    with ThreadPoolExecutor(len(source.rows)) as pool:
        if jax.process_index() == 0:
            starts = cli.progress(starts, name="features", unit="batch")
        for start in starts:
            places = [start + row for row in source.rows if start + row < len(missing)]
            mine = [source.records[missing[place]] for place in places]
            visuals = list(pool.map(functools.partial(_read, source.reader), mine))
            frames = empty.copy()
            for row, visual in enumerate(visuals):
                frames[row, : len(visual.groups)] = visual.groups
            features = _local_rows(encode(vision, to_devices(frames)))
            for row, (record, visual) in enumerate(zip(mine, visuals, strict=True)):
                if count := len(visual.groups):
                    shown = visual._replace(groups=features[row, :count])
                    files.write(source.reader.visual_key(record), shown)


def _read(reader: SampleReader, record: Record) -> Visual:
    """Frames, without groups if the file cannot be read."""
    try:
        return reader.visual(record)
    except InputError:
        side = reader.shape.image_size
        return Visual(np.zeros((0, FRAMES_PER_GROUP, side, side, 3), np.uint8), np.zeros(0))


def _encoder(config: TrainConfig) -> Callable:
    """Tower's parameters and frames, uint8 [B,G,4,S,S,3], to features [B,G,4,P,C]."""
    model = Recot(config.model, config.recot)

    def encode(vision, frames):
        params = {"vision": tree.cast(vision, config.compute_dtype)}
        flat = rearrange(frames, "b g f ... -> (b g) f ...")
        features = model.apply({"params": params}, flat, method=Recot.features)
        return rearrange(features, "(b g) ... -> b g ...", b=len(frames))

    return jit(encode)


def _local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a batch that this process put in."""
    mesh = jax.sharding.get_mesh()
    spec = sharding.batch_sharding(mesh).spec
    return np.asarray(multihost_utils.global_array_to_host_local_array(array, mesh, spec))
