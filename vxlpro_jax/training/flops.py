"""Counts floating-point operations of a step from the sizes alone.

Only matrix products count, with two operations per multiply-add; causal attention costs half of
full attention. A trained part costs three times its forward pass; a frozen part costs its forward
pass twice if the gradient passes through it, and once otherwise. Recomputation is not counted.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vxlpro_jax.config.schema import (
    FRAMES_PER_GROUP,
    IGNORE_LABEL,
    STAMP_TOKENS,
    DecoderConfig,
    ModelConfig,
    RecotConfig,
    VisionConfig,
)
from vxlpro_jax.ops import segments as seg

# Branch of the parameters to which a part belongs, if its name differs.
_BRANCHES = {"head": "decoder"}


class Forward(NamedTuple):
    """FLOPs of a forward pass by part: numbers, or arrays with one number per row."""

    vision: float
    dts: float
    projector: float = 0.0
    selector: float = 0.0
    decoder: float = 0.0
    head: float = 0.0
    recot: float = 0.0


def sft_forward(
    config: ModelConfig, *, groups: int, text_tokens: int, keep_ratio: float, targets: int
) -> Forward:
    """Counts the forward pass of a row of question answering.

    Args:
        config: config of the model.
        groups: groups of four frames.
        text_tokens: text ids of the row.
        keep_ratio: share of the visual tokens that the decoder reads; it reads all time stamps.
        targets: number of positions whose logits are computed.
    """
    decoder, visual = config.decoder, groups * config.tokens_per_group
    read = text_tokens + groups * STAMP_TOKENS + visual * keep_ratio
    return Forward(
        vision=vision_forward(config.vision) * groups * FRAMES_PER_GROUP,
        dts=dts_forward(config) * groups,
        projector=_projector(config) * groups,
        selector=_selector(config) * groups,
        decoder=decoder_forward(decoder, length=read),
        head=_linear(targets, decoder.width, decoder.vocab_size),
    )


def recot_forward(config: ModelConfig, *, options: RecotConfig, groups: int) -> Forward:
    """Counts the forward pass of groups that are masked, compressed and restored."""
    places, width = config.dts.grid**2, options.decoder_width
    tokens = places * FRAMES_PER_GROUP
    layer = _attention(width, length=places) + 2 * _linear(places, width, 4 * width)
    restore = (
        _linear(places, config.vision.width, FRAMES_PER_GROUP * width)
        + options.decoder_depth * FRAMES_PER_GROUP * layer
        + _linear(tokens, width, config.vision.width)
    )
    return Forward(
        vision=vision_forward(config.vision) * groups * FRAMES_PER_GROUP,
        dts=dts_forward(config) * groups,
        recot=restore * groups,
    )


def trained(forward: Forward, *, frozen: Collection[str]) -> float:
    """Counts a training step with this forward pass; `frozen` names branches of the parameters."""
    total, has_trained = 0.0, False
    for part, flops in forward._asdict().items():
        is_trained = _BRANCHES.get(part, part) not in frozen
        total += flops * (3 if is_trained else 2 if has_trained else 1)
        has_trained |= is_trained
    return total


def step_flops(
    forward_flops: Callable[..., Forward],
    batch: Mapping[str, jax.Array],
    *,
    samples_per_row: int,
    frozen: Collection[str],
) -> jax.Array:
    """Counts a training step on a batch, float32; padding does not count.

    Args:
        forward_flops: function that counts the forward pass of rows, `Objective.forward_flops`.
        batch: arrays [B, ...] of `data.loader`.
        samples_per_row: largest number of samples in a row.
        frozen: top-level branches of the parameters that are not trained.
    """
    count = functools.partial(_count, samples_per_row=samples_per_row)
    sizes = {"groups": count(batch["group_segments"])}
    if "labels" in batch:
        segments = batch["token_segments"]
        sizes["text_tokens"] = count(segments)
        sizes["targets"] = count(jnp.where(batch["labels"] == IGNORE_LABEL, 0, segments))
    forward = forward_flops(**sizes)
    if "features" in batch:
        forward = forward._replace(vision=0.0)
    if "compressed" in batch:
        forward = forward._replace(vision=0.0, dts=0.0)
    return jnp.sum(trained(forward, frozen=frozen))


def _count(segments: jax.Array, *, samples_per_row: int) -> jax.Array:
    """Counts the slots of each sample without padding: [B, samples_per_row]."""
    return seg.one_hot(segments, num_segments=samples_per_row).sum(1, dtype=jnp.float32)


def vision_forward(config: VisionConfig) -> float:
    """Counts one frame in the tower."""
    patches, width = config.grid**2, config.width
    layer = _attention(width, length=patches) + 2 * _linear(patches, width, config.mlp_width)
    return _linear(patches, 3 * config.patch_size**2, width) + config.depth * layer


def dts_forward(config: ModelConfig) -> float:
    """Counts one group in the DTS: blocks of four and of two time slots, each of which halves them.

    The first output of the convolution needs 18 of its 27 taps (see `ops.conv3d`).
    """
    places, width = config.dts.grid**2, config.vision.width
    return sum(
        slots * _attention(width, length=places)
        + places * _attention(width, length=slots)
        + (27 * slots // 2 - 9) * _linear(places, width, width)
        for slots in (FRAMES_PER_GROUP, FRAMES_PER_GROUP // 2)
    )


def decoder_forward(config: DecoderConfig, *, length: float) -> float:
    """Counts one sample of `length` positions in the decoder, without its head."""
    kv_width = config.num_kv_heads * config.head_dim
    layer = (
        2 * _linear(length, config.width, config.width)
        + 2 * _linear(length, config.width, kv_width)
        + 3 * _linear(length, config.width, config.mlp_width)
        + _scores(length, config.width) / 2
    )
    return config.depth * layer


def _projector(config):
    places, width = config.dts.grid**2, config.decoder.width
    return _linear(places, config.vision.width, width) + _linear(places, width, width)


def _selector(config):
    tokens, width = config.tokens_per_group, config.decoder.width
    return _linear(STAMP_TOKENS + tokens, width, width) + _linear(tokens, width, STAMP_TOKENS)


def _attention(width, *, length):
    """Counts projections and scores of full attention."""
    return 4 * _linear(length, width, width) + _scores(length, width)


def _scores(length, width):
    """Counts the products of queries with keys and of weights with values."""
    return 4.0 * length**2 * width


def _linear(rows, inputs, outputs):
    return 2.0 * rows * inputs * outputs
