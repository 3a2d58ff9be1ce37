"""Compares the formulas for FLOPs with XLA's counts of the programs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from helpers import MICRO

from vxlpro_jax.config.schema import (
    DecoderConfig,
    DtsConfig,
    ModelConfig,
    RecotConfig,
    TrainConfig,
    VisionConfig,
)
from vxlpro_jax.models import recot, video_xl_pro
from vxlpro_jax.training import flops
from vxlpro_jax.training.objective import objective_of

# One layer each, because XLA counts a loop's body once; wide, so that matrix products dominate.
WIDE = ModelConfig(
    vision=VisionConfig(width=256, depth=1, num_heads=2, mlp_width=1024, image_size=112),
    dts=DtsConfig(grid=8),
    decoder=DecoderConfig(
        vocab_size=512, width=256, depth=1, num_heads=2, num_kv_heads=1, mlp_width=512
    ),
    attention="xla",
)
GROUPS = 3


def counted(function, *shapes):
    """Returns XLA's count for a function of parameters and arrays of these shapes."""
    params = jax.eval_shape(lambda: video_xl_pro.init_params(WIDE, key=jax.random.key(0)))
    compiled = jax.jit(function).lower(params, *shapes).compile()
    return compiled.cost_analysis()["flops"]


def apply(method):
    model = video_xl_pro.VideoXLPro(WIDE)
    return lambda params, *args: model.apply({"params": params}, *args, method=method)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_tower_flops_are_those_of_xla():
    frames = array(GROUPS, 4, 112, 112, 3, dtype=jnp.uint8)
    xla = counted(apply("group_features"), frames)
    assert 4 * GROUPS * flops.vision_forward(WIDE.vision) == pytest.approx(xla, rel=0.05)


def test_compressor_and_projector_flops_are_those_of_xla():
    xla = counted(apply("compress_and_project"), array(GROUPS, 4, 64, 256))
    forward = flops.sft_forward(WIDE, groups=GROUPS, text_tokens=0, keep_ratio=1.0, targets=0)
    assert forward.dts + forward.projector == pytest.approx(xla, rel=0.05)


@pytest.mark.parametrize("length", [64, 512])
def test_decoder_flops_are_those_of_xla(length):
    """XLA's attention also computes the masked half, which the formula does not count."""

    def run(params, x, at):
        decode = video_xl_pro.VideoXLPro(WIDE).apply
        return decode({"params": params}, x, at, method=lambda m, x, at: m.decoder(x, positions=at))

    xla = counted(run, array(1, length, 256), array(1, length, dtype=jnp.int32))
    hidden_half = 2 * length**2 * WIDE.decoder.width
    counted_by_us = flops.decoder_forward(WIDE.decoder, length=length)
    assert counted_by_us + hidden_half == pytest.approx(xla, rel=0.05)


@pytest.mark.slow
def test_recot_flops_are_those_of_xla():
    options = RecotConfig(decoder_width=128, decoder_depth=1, decoder_heads=1)
    params = jax.eval_shape(lambda: recot.init_params(WIDE, options=options, key=jax.random.key(0)))
    model = recot.Recot(WIDE, options)

    def run(params, features):
        return model.apply({"params": params}, features, key=jax.random.key(0)).predicted

    xla = jax.jit(run).lower(params, array(GROUPS, 4, 64, 256)).compile().cost_analysis()["flops"]
    forward = flops.recot_forward(WIDE, options=options, groups=GROUPS)
    assert forward.dts + forward.recot == pytest.approx(xla, rel=0.05)


def test_frozen_parts_cost_a_pass_less_or_two():
    forward = flops.Forward(vision=1.0, dts=10.0, decoder=100.0)
    assert flops.trained(forward, frozen=()) == 333
    assert flops.trained(forward, frozen=("vision",)) == 331
    assert flops.trained(forward, frozen=("vision", "decoder")) == 231
    assert flops.trained(forward, frozen=("vision", "dts")) == 311
    assert flops.trained(forward, frozen=("vision", "dts", *forward._fields)) == 111


@pytest.mark.parametrize("objective", ["sft", "recot"])
def test_padding_does_not_count_in_a_step(objective):
    config = TrainConfig(objective=objective, model=WIDE, keep_ratio=(1.0, 1.0))
    segments = {"group_segments": (2, 3), "token_segments": (2, 20)}
    full = {name: jnp.ones(shape, jnp.int32) for name, shape in segments.items()}
    full["labels"] = full["token_segments"]
    padded = {name: jnp.pad(x, ((0, 1), (0, 5))) for name, x in full.items()}
    padded["labels"] = jnp.where(padded["token_segments"] > 0, padded["labels"], -100)
    step_flops = functools.partial(
        flops.step_flops, objective_of(config).forward_flops, samples_per_row=1, frozen=()
    )
    told, again = (step_flops(batch) for batch in (full, padded))
    assert told == pytest.approx(again)
    forward = (
        flops.recot_forward(WIDE, options=config.recot, groups=3)
        if objective == "recot"
        else flops.sft_forward(WIDE, groups=3, text_tokens=20, keep_ratio=1.0, targets=20)
    )
    assert told == pytest.approx(2 * flops.trained(forward, frozen=()))
    seen = step_flops(full | {"features": jnp.zeros(())}, frozen=("vision",))
    assert seen == pytest.approx(2 * (flops.trained(forward, frozen=("vision",)) - forward.vision))
    seen = step_flops(full | {"compressed": jnp.zeros(())}, frozen=("vision", "dts"))
    rest = flops.trained(forward, frozen=("vision", "dts")) - forward.vision - forward.dts
    assert seen == pytest.approx(2 * rest)


def test_flops_grow_with_depth():
    twice = dataclasses.replace(MICRO.decoder, depth=2 * MICRO.decoder.depth)
    once = flops.decoder_forward(MICRO.decoder, length=100)
    assert flops.decoder_forward(twice, length=100) == 2 * once
