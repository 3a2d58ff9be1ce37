"""What a run computes and where its memory goes, from its sizes: for `vxlpro_jax.compile`."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from vxlpro_jax import flops, optim
from vxlpro_jax.config import FRAMES_PER_GROUP, STAMP_TOKENS, TrainConfig
from vxlpro_jax.tasks import param_shapes

_GIB = 2**30


class Work(NamedTuple):
    """FLOPs of all devices: `useful` ones, and `executed` ones with what is computed again."""

    useful: float
    executed: float


def work(config: TrainConfig, *, what: str) -> Work:
    """Of one run of a program of `vxlpro_jax.compile`, every row as long as it may be."""
    forward = _forward(config)
    if what == "prefill":
        total = config.data.batch_size * sum(forward)
        return Work(total, total)
    if what == "decode":
        decoder = config.model.decoder
        head = 2 * decoder.width * decoder.vocab_size
        seen = _positions(config)
        token = flops.decoder_forward(decoder, length=1)
        token += 4 * seen * decoder.width * decoder.depth + head
        return Work(config.data.batch_size * token, config.data.batch_size * token)
    shapes = param_shapes(config)
    frozen = optim.frozen_branches(shapes, config=config.optim)
    useful = flops.trained(forward, frozen=frozen)
    again = forward.decoder * config.model.decoder.remat + forward.head
    if "vision" not in frozen:
        again += forward.vision * (config.model.vision.remat + bool(config.groups_at_once))
    again += (forward.dts + forward.projector) * bool(config.groups_at_once)
    rows = config.data.batch_size
    return Work(rows * useful, rows * (useful + again))


def advice(config: TrainConfig, *, mesh: Mesh) -> Iterator[str]:
    """What would take less memory on each device, with what it would save, roughly."""
    model, decoder = config.model, config.model.decoder
    rows = config.data.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"] * config.accumulate)
    positions = rows * _positions(config) // mesh.shape["context"]
    saved = 2 * positions * (2 if decoder.remat else 16) * decoder.width * decoder.depth
    if not decoder.remat:
        yield f"model.decoder.remat=True saves {saved * 7 / 8 / _GIB:.1f} GiB"
        saved /= 8
    groups = rows * config.data.max_frames // FRAMES_PER_GROUP // mesh.shape["context"]
    frame = 2 * model.vision.grid**2 * model.vision.width * model.vision.depth
    if not model.vision.remat:
        yield f"model.vision.remat=True saves {7 * 2 * frame * 4 / _GIB:.1f} GiB for each group"
    if config.groups_at_once != 1:
        fewer = groups - 1 if not config.groups_at_once else config.groups_at_once - 1
        yield f"groups_at_once=1 saves {fewer * FRAMES_PER_GROUP * frame / _GIB:.1f} GiB"
    if rows > 1:
        more = 2 * config.accumulate
        yield f"accumulate={more} saves {saved / 2 / _GIB:.1f} GiB of activations"
    yield (
        f"mesh.context={2 * mesh.shape['context']} on as many devices more saves"
        f" {saved / 2 / _GIB:.1f} GiB of activations"
    )
    state = _state_bytes(config) / (mesh.shape["fsdp"] * mesh.shape["tensor"])
    yield (
        f"mesh.fsdp={2 * mesh.shape['fsdp']} instead of more data or on as many devices more saves"
        f" {state / 2 / _GIB:.1f} GiB of parameters, gradients and moments"
    )
    longest = config.data.max_frames // 2
    yield f"data.max_frames={longest} saves {saved / 2 / _GIB:.1f} GiB of activations"


def _forward(config):
    groups = config.data.max_frames // FRAMES_PER_GROUP
    if config.task == "recot":
        return flops.recot_forward(config.model, options=config.recot, groups=groups)
    return flops.answer_forward(
        config.model,
        groups=groups,
        text_tokens=config.data.max_text_tokens,
        keep_ratio=sum(config.keep_ratio) / 2,
        targets=config.data.max_text_tokens,
    )


def _positions(config):
    groups = config.data.max_frames // FRAMES_PER_GROUP
    return config.data.max_text_tokens + groups * (STAMP_TOKENS + config.model.tokens_per_group)


def _state_bytes(config):
    """Parameters, gradients and, of what is trained, two moments."""
    shapes = param_shapes(config)
    frozen = optim.frozen_branches(shapes, config=config.optim)
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    held = sum(size * (1 if name in frozen else 4) for name, size in count.items())
    return held * jax.numpy.dtype(config.param_dtype).itemsize
