"""Runs frozen parts once over all data, so that training reads their features instead of frames.

Shapes: `R` records, `B` rows of this process, `G` groups of four frames a row, `P` places of the
grid, `C` width of the tower, `S` side of an image.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, TrainConfig
from vxlpro_jax.data.features.blocks import GroupType, Visual
from vxlpro_jax.data.features.shards import remove_unused
from vxlpro_jax.data.features.store import FeatureStore, FeatureWriter, RunFeatures
from vxlpro_jax.data.loader.batches import BatchSource
from vxlpro_jax.data.sources.content_hash import ContentHashes, media_name, visual_key
from vxlpro_jax.models import microbatched_encoder
from vxlpro_jax.sharding import batch
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.utils import cli, tree
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.jit import jit

_FORMAT = 1  # Raise it when the same files and weights would give other features or shards.
_READER_THREADS = 16  # They wait for storage more than they compute.
_RECORDS_PER_TASK = 1024
_HASH_BYTES = 16


def fill_feature_cache(
    params: Mapping[str, Any], *, plan: RunPlan, source: BatchSource, to_devices: Callable
) -> RunFeatures:
    """Encodes and writes the features that `config.data.feature_cache` lacks.

    Features are the tower's, or the DTS's if all parts before the projector are frozen. Files are
    identified by their content: each is read in full once, and later runs compare only its size and
    its modification time or tag. Files must not change during a run. Unreadable files are left
    out here; training finds and names them.

    Args:
        params: parameters of the run; `vision` and `dts` are used.
        plan: plan of the run.
        source: source of the run's batches.
        to_devices: function from this process's rows of a batch to a global array.

    Raises:
        InputError: the folder cannot be written.
    """
    config = plan.config
    names = ("vision", "dts") if keeps_compressed(plan) else ("vision",)
    parts = {name: params[name] for name in names}
    root = Path(config.data.feature_cache).expanduser()
    folder, kind = root / _cache_key(parts, config), _feature_type(parts, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        records = _identify(source, contents=ContentHashes(root / "contents"))
        missing = _find_missing(records.keys, folder=folder, kind=kind)
        _encode_missing(
            missing, folder=folder, parts=parts, config=config, source=source, place=to_devices
        )
        multihost_utils.sync_global_devices("all features are there")
    except OSError as error:
        raise InputError(
            f"Features cannot be written to {folder} ({error}): set data.feature_cache to a"
            " writable folder, or free space."
        ) from error
    keys = zip(records.names, records.keys, strict=True)
    keys = {name.tobytes(): key.tobytes().hex() for name, key in keys if name.any()}
    return RunFeatures(FeatureStore(folder, kind=kind), keys)


def keeps_compressed(plan: RunPlan) -> bool:
    """Returns whether to cache DTS outputs: the DTS is frozen too, and the objective reads them.

    ReCoT does not read them: it hides other tokens from the DTS at each step.
    """
    return plan.objective.reads_compressed and {"vision", "dts"} <= plan.frozen


def _feature_type(parts, config):
    """Returns shape and type of a group's features: [4,P,C] or, with the DTS, [P,C]."""
    frames = () if "dts" in parts else (FRAMES_PER_GROUP,)
    shape = (*frames, config.model.dts.grid**2, config.model.vision.width)
    return GroupType(shape, config.compute_dtype)


def _cache_key(parts: dict, config: TrainConfig) -> str:
    """Returns a hash of the weights and of all settings that determine the features of frames."""
    sums = [int(total) for total in jax.tree.leaves(jit(tree.checksums)(parts))]
    vision = dataclasses.asdict(config.model.vision) | {"remat": None}
    dts = dataclasses.asdict(config.model.dts)
    text = json.dumps([_FORMAT, sorted(parts), sums, vision, dts, config.compute_dtype])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Identities(NamedTuple):
    """Identity of each record's visual; zeros for records that have none or are unreadable.

    Attributes:
        names: `media_name` of each record, uint8 [R,16]; zeros for records that hold their file.
        keys: `visual_key` of each record, uint8 [R,16].
    """

    names: np.ndarray
    keys: np.ndarray


def _identify(source: BatchSource, *, contents: ContentHashes) -> _Identities:
    """Identifies all records; each process reads a contiguous part, so few read the same file."""
    count = -(-len(source.records) // jax.process_count())
    first = jax.process_index() * count
    mine = range(first, min(first + count, len(source.records)))
    found = np.zeros((count, 2 * _HASH_BYTES), np.uint8)
    places = range(len(mine))
    if jax.process_index() == 0:
        places = cli.progress(places, name="contents", unit="record")
    with ThreadPoolExecutor(_READER_THREADS) as pool:
        identify = functools.partial(_identify_record, source, contents)
        parts = (mine[at : at + _RECORDS_PER_TASK] for at in range(0, len(mine), _RECORDS_PER_TASK))
        rows = itertools.chain.from_iterable(pool.map(identify, part) for part in parts)
        for place, row in zip(places, rows, strict=True):
            found[place] = np.frombuffer(row, np.uint8)
    found = multihost_utils.process_allgather(found, tiled=True)[: len(source.records)]
    return _Identities(*np.split(found, 2, axis=1))


def _identify_record(source: BatchSource, contents: ContentHashes, index: int) -> bytes:
    """Returns name and key of a record, 32 bytes."""
    try:
        record = source.records[index]
        if not record.has_visual:
            return bytes(2 * _HASH_BYTES)
        reading = source.reader.reading(record)
        key = bytes.fromhex(visual_key([contents(file) for file in record.media], reading=reading))
    except InputError:
        return bytes(2 * _HASH_BYTES)
    return (bytes(_HASH_BYTES) if record.content else media_name(record.media)) + key


class _MissingVisual(NamedTuple):
    """A visual that must be encoded.

    Attributes:
        record: index of a record that shows it.
        key: its key.
    """

    record: int
    key: str


def _find_missing(keys: np.ndarray, *, folder: Path, kind: GroupType) -> list[_MissingVisual]:
    """Returns the visuals that are missing in the cache of the first process, each once.

    Args:
        keys: key of each record, uint8 [R,16].
        folder: folder of the features.
        kind: shape and type of a group's features.
    """
    firsts = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    found = [_MissingVisual(int(i), keys[i].tobytes().hex()) for i in firsts if keys[i].any()]
    if not found:
        return []
    lacks = np.zeros(len(found), np.int32)
    if jax.process_index() == 0:
        remove_unused(folder, kind=kind)
        store = FeatureStore(folder, kind=kind)
        lacks[:] = [missing.key not in store for missing in found]
    lacks = multihost_utils.broadcast_one_to_all(lacks)
    return [missing for missing, lack in zip(found, lacks, strict=True) if lack]


def _encode_missing(missing: Sequence[_MissingVisual], *, folder, parts, config, source, place):
    """Encodes a batch at a time; each process encodes its own rows, as in training."""
    shape, side = source.reader.shape, source.reader.shape.image_size
    empty = np.zeros((len(source.rows), shape.groups, FRAMES_PER_GROUP, side, side, 3), np.uint8)
    run, writes = _encoder(config), _is_first_reader(source)
    starts = range(0, len(missing), source.batch_size)
    if jax.process_index() == 0:
        starts = cli.progress(starts, name="features", unit="batch")
    kind = _feature_type(parts, config)
    with ThreadPoolExecutor(len(source.rows)) as pool, FeatureWriter(folder, kind=kind) as writer:
        for start in starts:
            mine = [missing[start + row] for row in source.rows if start + row < len(missing)]
            visuals = list(
                pool.map(functools.partial(_read_visual, source), [m.record for m in mine])
            )
            frames = empty.copy()
            for row, visual in enumerate(visuals):
                frames[row, : len(visual.groups)] = visual.groups
            features = _local_rows(run(parts, place(frames)))
            for row, (name, visual) in enumerate(zip(mine, visuals, strict=True)):
                if writes and (count := len(visual.groups)):
                    writer.write(name.key, [visual._replace(groups=features[row, :count])])


def _is_first_reader(source: BatchSource) -> bool:
    """Returns whether no process before this one reads the same rows."""
    firsts = multihost_utils.process_allgather(np.array([source.rows.start]), tiled=True)
    return firsts.tolist().index(source.rows.start) == jax.process_index()


def _read_visual(source: BatchSource, index: int) -> Visual:
    """Returns the frames of a record; no groups if they cannot be read."""
    try:
        return source.reader.visual(source.records[index])
    except InputError:
        side = source.reader.shape.image_size
        return Visual(np.zeros((0, FRAMES_PER_GROUP, side, side, 3), np.uint8), np.zeros(0))


def _encoder(config: TrainConfig) -> Callable:
    """Compiles the encoder of frames, uint8 [B,G,4,S,S,3], to [B,G,4,P,C] or [B,G,P,C]."""
    options = {"config": config.model, "microbatch": config.encode_microbatch}

    def run(parts, frames):
        parts = tree.cast(parts, config.compute_dtype)
        features = microbatched_encoder.group_features(parts, frames, **options)
        return (
            microbatched_encoder.compress(parts, features, **options)
            if "dts" in parts
            else features
        )

    return jit(run, out_shardings=batch.batch_sharding(jax.sharding.get_mesh()))


def _local_rows(array: jax.Array) -> np.ndarray:
    """Returns the rows of a global batch that this process holds."""
    mesh = jax.sharding.get_mesh()
    spec = batch.batch_sharding(mesh).spec
    return np.asarray(multihost_utils.global_array_to_host_local_array(array, mesh, spec))
