"""The programs of a run by name, with the shapes and places of what goes in, to be compiled.

Shapes: `B` rows, `G` groups a row, `T` text slots, `N` visual tokens of a group, `L` slots of the
decoder.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vxlpro_jax import optim, sharding, tree
from vxlpro_jax.config import FRAMES_PER_GROUP, STAMP_TOKENS, TrainConfig
from vxlpro_jax.models import encode
from vxlpro_jax.models.kv_cache import KVCache
from vxlpro_jax.models.video_xl_pro import Text, VideoXLPro, init_params
from vxlpro_jax.train import abstract_state
from vxlpro_jax.train_step import make_train_step

_ANSWER_TOKENS = 256


class Program(NamedTuple):
    """Attributes.

    function: to be jitted.
    arguments: of the function, as `jax.ShapeDtypeStruct` with shardings.
    donated: index of the argument whose memory the result may take.
    out_shardings: of the result; None leaves them to the compiler.
    """

    function: Callable
    arguments: tuple
    donated: int
    out_shardings: Any = None


def train(config: TrainConfig, *, mesh: Mesh) -> Program:
    """A step of the config's task."""
    optimizer = optim.optimizer(config.optim, total_steps=config.total_steps)
    state = abstract_state(config, optimizer=optimizer, mesh=mesh)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = make_train_step(config, optimizer=optimizer)
    return Program(step, (state, abstract_batch(config, mesh=mesh)), 0, (shardings, None))


def prefill(config: TrainConfig, *, mesh: Mesh) -> Program:
    """Frames and text to the first logits and the cache, one sample a row."""
    apply = functools.partial(_apply, config)
    part = {"config": config.model, "at_once": config.groups_at_once}

    def run(cache, params, frames, text):
        features = encode.group_features(params, frames, **part)
        visual = encode.condense(params, features, **part)
        sequence = apply(params, visual, text, method="assemble")
        return apply(params, sequence, cache, method="prefill")

    batch = abstract_batch(config, mesh=mesh)
    text = Text(
        tokens=batch["tokens"],
        token_segments=batch["token_segments"],
        stamp_ids=batch["stamp_ids"],
        group_segments=batch["group_segments"],
        keep_counts=_rows((config.data.batch_size, 1), mesh=mesh),
    )
    return Program(
        run, (_cache(config, mesh=mesh), _params(config, mesh=mesh), batch["frames"], text), 0
    )


def decode(config: TrainConfig, *, mesh: Mesh) -> Program:
    """One more id a row, after a full prefill."""

    def run(cache, params, ids):
        return _apply(config, params, ids, cache, method="step")

    ids = _rows((config.data.batch_size,), mesh=mesh)
    return Program(run, (_cache(config, mesh=mesh), _params(config, mesh=mesh), ids), 0)


def abstract_batch(config: TrainConfig, *, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The batches of `data.pipeline`, spread by row."""
    data, size = config.data, config.model.vision.image_size
    groups = (data.batch_size, data.max_frames // FRAMES_PER_GROUP)
    text = (data.batch_size, data.max_text_tokens)
    frames = (*groups, FRAMES_PER_GROUP, size, size, 3)
    batch = {
        "frames": _rows(frames, mesh=mesh, dtype=jnp.uint8),
        "stamp_ids": _rows((*groups, STAMP_TOKENS), mesh=mesh),
        "group_segments": _rows(groups, mesh=mesh),
    }
    if config.task == "answer":
        for name in ("tokens", "token_segments", "labels"):
            batch[name] = _rows(text, mesh=mesh)
    return batch


def _apply(config, params, *args, method):
    return VideoXLPro(config.model).apply({"params": params}, *args, method=method)


def _cache(config, *, mesh):
    data, model = config.data, config.model
    groups = data.max_frames // FRAMES_PER_GROUP
    read = data.max_text_tokens + groups * (STAMP_TOKENS + model.tokens_per_group)
    empty = functools.partial(
        KVCache.empty,
        model.decoder,
        batch=data.batch_size,
        slots=read + _ANSWER_TOKENS,
        dtype=config.compute_dtype,
    )
    rows = sharding.batch_sharding(mesh)
    layers = NamedSharding(mesh, PartitionSpec(None, *rows.spec))
    return _placed(jax.eval_shape(empty), KVCache(keys=layers, values=layers, lengths=rows))


def _params(config, *, mesh):
    params = jax.eval_shape(
        lambda: tree.cast(init_params(config.model, key=jax.random.key(0)), config.compute_dtype)
    )
    return _placed(params, sharding.state_shardings(params, params=params, mesh=mesh))


def _placed(shapes, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _rows(shape, *, mesh, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.batch_sharding(mesh))
