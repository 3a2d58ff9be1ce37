"""Estimates the FLOPs of a run, and the memory that changes of its config would save."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from vxlpro_jax.config.schema import FRAMES_PER_GROUP, STAMP_TOKENS, TrainConfig
from vxlpro_jax.inference import memory_plan
from vxlpro_jax.training import flops
from vxlpro_jax.training.plan import RunPlan

_GIB = 2**30
# Activations that a layer outside the decoder keeps for the backward pass, as a multiple of its
# input.
_KEPT = 16
_KEPT_BY_TOWER_LAYER = {"none": _KEPT, "elementwise": 11, "all_but_attention": 2, "all": 1}
# Values of `remat` that run every product of a layer again.
_RUNS_AGAIN = ("all_but_attention", "all")


class Work(NamedTuple):
    """FLOPs of all devices: the `useful` ones, and the `executed` ones including recomputation."""

    useful: float
    executed: float


def work(config: TrainConfig, *, what: str) -> Work:
    """Counts the FLOPs of one run of a program, with every row at full length."""
    plan = RunPlan(config)
    forward = _forward(plan)
    parts = {
        "encode": forward.vision + forward.dts + forward.projector,
        "assemble": forward.selector,
        "prefill": forward.decoder,
    }
    if what in parts:
        total = config.data.batch_size * parts[what]
        return Work(total, total)
    if what == "decode":
        decoder = config.model.decoder
        head = 2 * decoder.width * decoder.vocab_size
        seen = _positions(config)
        token = flops.decoder_forward(decoder, length=1)
        token += 4 * seen * decoder.width * decoder.depth + head
        return Work(config.data.batch_size * token, config.data.batch_size * token)
    useful = flops.trained(forward, frozen=plan.frozen)
    model = config.model
    again = forward.decoder * (model.decoder.remat in _RUNS_AGAIN) + forward.head
    if "vision" not in plan.frozen:
        passes = (model.vision.remat in _RUNS_AGAIN) + bool(config.encode_microbatch)
        again += forward.vision * passes
    again += (forward.dts + forward.projector) * bool(config.encode_microbatch)
    rows = config.data.batch_size
    return Work(rows * useful, rows * (useful + again))


def advice(config: TrainConfig, *, what: str, mesh: Mesh) -> Iterator[str]:
    """Yields changes that would save memory per device, with a rough amount for each.

    Each line assumes the changes of the lines before it. `what` is the name of the program.
    """
    plan = RunPlan(config)
    rows = config.data.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
    if what in ("encode", "assemble", "prefill", "decode"):
        yield from _reading_advice(plan, what=what, rows=rows, mesh=mesh)
    else:
        yield from _training_advice(plan, rows=rows // config.grad_accum_steps, mesh=mesh)


def _training_advice(plan, *, rows, mesh):
    config = plan.config
    groups = max(rows * _groups(config) // mesh.shape["context"], 1)
    if _restores(plan):
        held = groups * _KEPT * FRAMES_PER_GROUP * _feature_bytes(config)
        if not config.encode_microbatch:
            held += groups * (_dts_bytes(config) + _restoring_bytes(config))
    else:
        decoder = config.model.decoder
        positions = rows * _positions(config) // mesh.shape["context"]
        array = positions * decoder.width * _itemsize(config)
        kept = {name: array * n for name, n in _kept_by_decoder_layer(decoder).items()}
        held = _held_by_layers(kept, depth=decoder.depth)
        yield from _remat_advice("decoder", held, now=decoder.remat)
        held = held["all"]
    yield from _tower_advice(plan, groups=groups, is_trained="vision" not in plan.frozen)
    if rows > 1:
        steps = 2 * config.grad_accum_steps
        yield f"grad_accum_steps={steps} saves {_gib(held / 2)} of activations"
    yield (
        f"mesh.context={2 * mesh.shape['context']} on twice as many devices saves {_gib(held / 2)}"
        " of activations"
    )
    state = _state_bytes(plan)
    state /= mesh.shape["fsdp"] * mesh.shape["tensor"]
    yield (
        f"mesh.fsdp={2 * mesh.shape['fsdp']} with mesh.data halved or on twice as many devices"
        f" saves {_gib(state / 2)} of parameters, gradients and moments"
    )
    yield f"data.max_frames={config.data.max_frames // 2} saves {_gib(held / 2)} of activations"


def _kept_by_decoder_layer(decoder) -> dict[str, float]:
    """Returns activations that a layer keeps, as a multiple of its input, by `remat`.

    With `none` these are queries, keys and values before and after the rotation, and four arrays of
    the MLP's width. The rest, which does not depend on the sizes, was fitted to compiled programs.
    """
    attention = 1 + 2 * decoder.num_kv_heads / decoder.num_heads
    mlp = decoder.mlp_width / decoder.width
    return {
        "none": 16 + 2 * attention + 4 * mlp,
        "elementwise": 3 + attention + 2 * mlp,
        "all_but_attention": 3,
        "all": 2,
    }


def _held_by_layers(kept: dict[str, float], *, depth: int) -> dict[str, float]:
    """Returns the bytes of all layers, and of the one that is being recomputed, by `remat`."""
    everything = depth * kept["none"]
    return {name: min(depth * size + kept["none"], everything) for name, size in kept.items()}


def _remat_advice(part: str, held: dict[str, float], *, now: str) -> Iterator[str]:
    """Yields the values of a part's `remat` that recompute more than the present one."""
    names = list(held)
    for before, after in itertools.pairwise(names[names.index(now) :]):
        saved = held[before] - held[after]
        if saved > 0:
            yield f"model.{part}.remat={after} saves {_gib(saved)}"


def _tower_advice(plan, *, groups, is_trained):
    """Yields changes to the parts that process a few groups at a time."""
    config = plan.config
    vision = config.model.vision
    microbatch = min(config.encode_microbatch or groups, groups)
    compressor = _dts_bytes(config)
    if _restores(plan):
        compressor += _restoring_bytes(config)
    frame = vision.grid**2 * vision.width * _itemsize(config)
    group = FRAMES_PER_GROUP * frame
    kept = {name: group * n for name, n in _KEPT_BY_TOWER_LAYER.items()}
    held = _held_by_layers(kept, depth=vision.depth)
    if is_trained:
        now = {name: microbatch * size for name, size in held.items()}
        yield from _remat_advice("vision", now, now=vision.remat)
    if microbatch > 1:
        # A frozen tower frees the activations of each layer after the next one.
        each = held["all"] if is_trained else group * _KEPT / 2
        each += compressor
        yield f"encode_microbatch=1 saves {_gib((microbatch - 1) * each)}"


def _reading_advice(plan, *, what, rows, mesh):
    """Yields changes for inference, which has no gradients and moments, but a key/value cache."""
    config = plan.config
    decoder, itemsize = config.model.decoder, _itemsize(config)
    params = sum(x.size for x in jax.tree.leaves(plan.param_shapes)) * itemsize
    params /= mesh.shape["fsdp"] * mesh.shape["tensor"]
    # Memory that grows with the number of frames: copies of the selector's windows, or the
    # decoder's input and its cache.
    held, of = rows * _positions(config) * decoder.width * itemsize, "visual tokens"
    if what in ("prefill", "decode"):
        slot = memory_plan.slot_bytes(config.model, itemsize=itemsize, kv_cache="model")
        held, of = rows * _positions(config) * slot, "keys and values"
    elif what == "assemble":
        held *= memory_plan.WINDOW_COPIES
    if itemsize == 4:
        held, params = held / 2, params / 2
        yield f"compute_dtype=bfloat16 saves {_gib(held + params)} of {of} and parameters"
    if what == "encode":
        groups = max(rows * _groups(config) // mesh.shape["context"], 1)
        yield from _tower_advice(plan, groups=groups, is_trained=False)
    if what in ("prefill", "decode"):
        held /= 2
        yield f"--kv_cache=int8 saves {_gib(held)} of {of}"
    if rows > 1:
        left = rows // 2 / rows
        size = round(config.data.batch_size * left)
        yield f"data.batch_size={size} saves {_gib(held * (1 - left))} of {of}"
        held *= left
    if what != "encode" or not config.encode_microbatch:
        frames = config.data.max_frames // 2
        yield f"data.max_frames={frames} saves {_gib(held / 2)} of {of}"
    more = f"mesh.tensor={2 * mesh.shape['tensor']} on twice as many devices"
    yield f"{more} saves {_gib(params / 2)} of parameters"


def _dts_bytes(config):
    """Returns the bytes that the DTS's two blocks keep per group for the backward pass."""
    slots = FRAMES_PER_GROUP + FRAMES_PER_GROUP // 2
    return _KEPT * slots * _feature_bytes(config)


def _feature_bytes(config):
    """Returns the bytes of one frame's features."""
    return config.model.dts.grid**2 * config.model.vision.width * _itemsize(config)


def _restoring_bytes(config):
    """Returns the bytes that ReCoT's decoder keeps per group for the backward pass."""
    tokens = FRAMES_PER_GROUP * config.model.dts.grid**2
    options = config.recot
    return _KEPT * options.decoder_depth * tokens * options.decoder_width * _itemsize(config)


def _groups(config):
    return config.data.max_frames // FRAMES_PER_GROUP


def _itemsize(config):
    return jax.numpy.dtype(config.compute_dtype).itemsize


def _gib(size):
    return f"{size / _GIB:.1f} GiB"


def _restores(plan):
    """Returns whether the run trains a decoder that restores hidden tokens, as ReCoT does."""
    return "recot" in plan.param_shapes


def _forward(plan):
    text = plan.config.data.max_text_tokens
    groups = _groups(plan.config)
    return plan.objective.forward_flops(groups=groups, text_tokens=text, targets=text)


def _positions(config):
    group = STAMP_TOKENS + config.model.tokens_per_group
    return config.data.max_text_tokens + _groups(config) * group


def _state_bytes(plan):
    """Returns the bytes of parameters and, if trained, of their gradients and two moments."""
    sizes = {
        name: sum(x.size for x in jax.tree.leaves(part)) for name, part in plan.param_shapes.items()
    }
    held = sum(size * (1 if name in plan.frozen else 4) for name, size in sizes.items())
    return held * jax.numpy.dtype(plan.config.param_dtype).itemsize
