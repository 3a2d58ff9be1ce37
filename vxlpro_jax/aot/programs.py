"""The compilable programs of a run by name, with the shapes and shardings of their inputs.

Shapes: `B` rows, `G` groups a row, `T` text slots, `N` visual tokens of a group, `L` slots of the
decoder.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, STAMP_TOKENS, CacheType, TrainConfig
from vxlpro_jax.models import microbatched_encoder as encoding
from vxlpro_jax.models.kv_cache import CHUNK, KVCache
from vxlpro_jax.models.video_xl_pro import Text, VideoXLPro, apply_method, init_params
from vxlpro_jax.sharding.batch import batch_sharding
from vxlpro_jax.sharding.params import state_shardings
from vxlpro_jax.training.objective import objective_of
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.training.state import abstract_state
from vxlpro_jax.training.step import make_train_step
from vxlpro_jax.utils import tree

_ANSWER_TOKENS = 256
# While a step runs, the next one is queued with its batch, and one more batch is prepared.
_BATCHES_AHEAD = 2


class Program(NamedTuple):
    """A function to compile.

    Attributes:
        function: function to jit.
        arguments: its arguments, as `jax.ShapeDtypeStruct` with shardings.
        donated: index of the argument whose memory the result may reuse, or None.
        out_shardings: shardings of the result; None leaves them to the compiler.
        bytes_ahead: bytes per device of further inputs that wait on the device meanwhile.
    """

    function: Callable
    arguments: tuple
    donated: int | None
    out_shardings: Any = None
    bytes_ahead: int = 0

    def jitted(self) -> jax.stages.Wrapped:
        """Jits the function; arguments that it does not use stay on the device nevertheless."""
        return jax.jit(
            self.function,
            donate_argnums=self.donated,
            out_shardings=self.out_shardings,
            keep_unused=True,
        )


class DeviceMemory(NamedTuple):
    """Bytes per device of a compiled program; `aliased` outputs reuse the arguments' memory."""

    arguments: int
    outputs: int
    aliased: int
    temporary: int
    code: int

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> Self:
        """Reads the compiler's own figures."""
        found = compiled.memory_analysis()
        assert found is not None, "this backend does not report memory"
        return cls(
            arguments=found.argument_size_in_bytes,
            outputs=found.output_size_in_bytes,
            aliased=found.alias_size_in_bytes,
            temporary=found.temp_size_in_bytes,
            code=found.generated_code_size_in_bytes,
        )

    @property
    def total(self) -> int:
        """The sum of all kinds, with aliased memory counted once."""
        return self.arguments + self.outputs - self.aliased + self.temporary + self.code


def build(what: str, config: TrainConfig, *, mesh: Mesh, cache: CacheType = "model") -> Program:
    """Builds the program with a name; `train` and `stage1` are a step of the config's objective.

    Only `prefill` and `decode` use `cache`, the storage type of keys and values.
    """
    if what in ("prefill", "decode"):
        return {"prefill": prefill, "decode": decode}[what](config, mesh=mesh, cache=cache)
    return {"encode": encode, "assemble": assemble}.get(what, train)(config, mesh=mesh)


def train(config: TrainConfig, *, mesh: Mesh) -> Program:
    """Builds a training step of the config's objective."""
    plan = RunPlan(config)
    state = abstract_state(plan, mesh=mesh)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = make_train_step(plan)
    batch = abstract_batch(config, mesh=mesh)
    ahead = _BATCHES_AHEAD * sum(map(_device_bytes, batch.values()))
    return Program(step, (state, batch), 0, (shardings, None), ahead)


def encode(config: TrainConfig, *, mesh: Mesh) -> Program:
    """Encodes `encode_microbatch` groups of each row, or all of them, to visual tokens."""
    part = {"config": config.model, "microbatch": config.encode_microbatch}

    def run(params, frames):
        features = encoding.group_features(params, frames, **part)
        return encoding.compress_and_project(params, features, **part)

    rows, groups, *frame = abstract_batch(config, mesh=mesh)["frames"].shape
    groups = min(config.encode_microbatch or groups, groups)
    frames = _rows((rows, groups, *frame), mesh=mesh, dtype=jnp.uint8)
    params = _params(config, mesh=mesh)
    used = {name: params[name] for name in ("vision", "dts", "projector")}
    return Program(run, (used, frames), None)


def assemble(config: TrainConfig, *, mesh: Mesh) -> Program:
    """Builds the decoder's input of visual tokens and text, one sample per row."""
    model, data = config.model, config.data
    put = functools.partial(VideoXLPro.assemble, slots=read_slots(config))

    def run(params, visual, text):
        sequence = apply_method(model, put, params, visual, text)
        return sequence.embeddings, sequence.layout.lengths

    batch: dict[str, Any] = abstract_batch(config, mesh=mesh)
    text = Text(
        tokens=batch["tokens"],
        token_segments=batch["token_segments"],
        stamp_ids=batch["stamp_ids"],
        group_segments=batch["group_segments"],
        keep_counts=_rows((data.batch_size, 1), mesh=mesh),
    )
    visual = (*batch["group_segments"].shape, model.tokens_per_group, model.decoder.width)
    visual = _rows(visual, mesh=mesh, dtype=jnp.dtype(config.compute_dtype))
    return Program(run, (_params(config, mesh=mesh), visual, text), None)


def prefill(config: TrainConfig, *, mesh: Mesh, cache: CacheType = "model") -> Program:
    """Reads the decoder's input, `CHUNK` slots at a time, to the first logits and the cache."""
    decoder, rows = config.model.decoder, config.data.batch_size

    def run(cache, params, embeddings, lengths):
        def read(index, state):
            logits, cache = state
            start = index * CHUNK
            piece = jax.lax.dynamic_slice_in_dim(embeddings, start, CHUNK, axis=1)
            last = jnp.clip(lengths - start, 0, CHUNK) - 1
            new, cache = apply_method(config.model, "prefill", params, piece, cache, last)
            return jnp.where((last >= 0)[:, None], new, logits), cache

        logits = jnp.zeros((rows, decoder.vocab_size), jnp.float32)
        chunks = embeddings.shape[1] // CHUNK
        return jax.lax.fori_loop(0, chunks, read, (logits, cache))

    embeddings = (rows, read_slots(config), decoder.width)
    return Program(
        run,
        (
            _cache(config, mesh=mesh, kind=cache),
            _params(config, mesh=mesh),
            _rows(embeddings, mesh=mesh, dtype=jnp.dtype(config.compute_dtype)),
            _rows((rows,), mesh=mesh),
        ),
        0,
    )


def decode(config: TrainConfig, *, mesh: Mesh, cache: CacheType = "model") -> Program:
    """Decodes one more id per row after a full prefill."""

    def run(cache, params, ids):
        return apply_method(config.model, "decode_step", params, ids, cache)

    ids = _rows((config.data.batch_size,), mesh=mesh)
    params = _params(config, mesh=mesh)
    return Program(run, (_cache(config, mesh=mesh, kind=cache), params, ids), 0)


def abstract_batch(config: TrainConfig, *, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the batch of the config's objective, sharded by row."""
    spec = objective_of(config).batch_spec()
    return {name: _rows(x.shape, mesh=mesh, dtype=x.dtype) for name, x in spec.items()}


def read_slots(config: TrainConfig) -> int:
    """Returns the decoder slots of a row that keeps all its visual tokens, in whole chunks."""
    group = STAMP_TOKENS + config.model.tokens_per_group
    read = config.data.max_text_tokens + config.data.max_frames // FRAMES_PER_GROUP * group
    return -(-read // CHUNK) * CHUNK


def _cache(config, *, mesh, kind):
    empty = functools.partial(
        KVCache.empty,
        config.model.decoder,
        batch=config.data.batch_size,
        slots=read_slots(config) + _ANSWER_TOKENS,
        dtype=config.compute_dtype,
        kind=kind,
    )
    rows = batch_sharding(mesh)
    layers = NamedSharding(mesh, PartitionSpec(None, *rows.spec))
    shapes = jax.eval_shape(empty)
    shardings = jax.tree.map(lambda _: layers, shapes).replace(lengths=rows)
    return _with_shardings(shapes, shardings)


def _params(config, *, mesh):
    params = jax.eval_shape(
        lambda: tree.cast(init_params(config.model, key=jax.random.key(0)), config.compute_dtype)
    )
    return _with_shardings(params, state_shardings(params, params=params, mesh=mesh))


def _with_shardings(shapes, shardings):
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def _device_bytes(x: jax.ShapeDtypeStruct) -> int:
    shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
    return math.prod(shape) * x.dtype.itemsize


def _rows(shape, *, mesh, dtype=jnp.int32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
