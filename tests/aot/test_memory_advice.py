"""Tests the memory advice for each program: its lines, and the savings of compiled programs."""

import dataclasses
import re

import jax
import pytest
from helpers import MICRO

from vxlpro_jax.aot import memory_advice, programs
from vxlpro_jax.config.schema import (
    PRESETS,
    DataConfig,
    MeshConfig,
    OptimConfig,
    ParamGroup,
    TrainConfig,
)
from vxlpro_jax.sharding.mesh import make_mesh

pytestmark = pytest.mark.slow

FROZEN_TOWER = OptimConfig(groups=(ParamGroup(pattern="^vision/", lr_scale=0.0),))

# Recomputing layers saves nothing if there is only one.
TWO_LAYERS = dataclasses.replace(
    MICRO,
    vision=dataclasses.replace(MICRO.vision, depth=2),
    decoder=dataclasses.replace(MICRO.decoder, depth=2),
)


def advice(what, **fields):
    """Returns the suggested changes in order, with the GiB saved by each and the kind of memory."""
    data = DataConfig(batch_size=2**20, max_frames=64, max_text_tokens=96)
    config = dataclasses.replace(TrainConfig(model=TWO_LAYERS, data=data), **fields)
    mesh = make_mesh(MeshConfig())
    lines = list(memory_advice.advice(config, what=what, mesh=mesh))
    form = re.compile(r"([\w.-]+)=\w+ (?:.* )?saves ([\d.]+) GiB(?: of (.*))?")
    parts = [re.fullmatch(form, line) for line in lines]
    assert all(parts), lines
    return {part[1]: (float(part[2]), part[3]) for part in parts}


def test_training_is_advised_about_every_part():
    told = advice("train")
    assert list(told) == [
        "model.decoder.remat",
        "model.vision.remat",
        "encode_microbatch",
        "grad_accum_steps",
        "mesh.context",
        "mesh.fsdp",
        "data.max_frames",
    ]
    assert all(saved > 0 for name, (saved, _) in told.items() if name != "mesh.fsdp")
    assert told["mesh.fsdp"][1] == "parameters, gradients and moments"


def test_stage_1_is_not_advised_about_the_text_decoder():
    told = advice("stage1", objective="recot", optim=FROZEN_TOWER)
    assert list(told) == [
        *("encode_microbatch", "grad_accum_steps", "mesh.context", "mesh.fsdp"),
        "data.max_frames",
    ]
    deep = dataclasses.replace(MICRO, decoder=dataclasses.replace(MICRO.decoder, depth=64))
    assert advice("stage1", objective="recot", optim=FROZEN_TOWER, model=deep) == told


def test_a_frozen_tower_needs_no_remat():
    deep = dataclasses.replace(TWO_LAYERS, vision=dataclasses.replace(MICRO.vision, depth=64))
    fields = {"model": deep}
    trained, frozen = advice("train", **fields), advice("train", **fields, optim=FROZEN_TOWER)
    assert "model.vision.remat" in trained
    assert "model.vision.remat" not in frozen
    assert frozen["encode_microbatch"] < trained["encode_microbatch"]


@pytest.mark.parametrize("what", ["encode", "assemble", "prefill", "decode"])
def test_inference_is_advised_about_caches_but_not_the_optimizer(what):
    told = advice(what)
    assert {"compute_dtype", "data.batch_size", "data.max_frames", "mesh.tensor"} <= set(told)
    assert not {"grad_accum_steps", "model.decoder.remat", "mesh.fsdp"} & set(told)
    has_cache = what in ("prefill", "decode")
    assert ("--kv_cache" in told) == has_cache
    assert ("encode_microbatch" in told) == (what == "encode")
    deep = dataclasses.replace(MICRO, decoder=dataclasses.replace(MICRO.decoder, depth=4))
    more = advice(what, model=deep)["data.max_frames"][0] / told["data.max_frames"][0]
    # Each layer has a cache; other values of a layer are overwritten by those of the next.
    assert more == pytest.approx(2 if has_cache else 1, rel=0.05)


def test_the_cache_of_8192_frames_has_its_computed_size():
    """3B, one row: 36 layers, 2 heads of 128, 315,392 positions and the text, bfloat16."""
    config = TrainConfig(
        model=PRESETS["3b"],
        data=DataConfig(batch_size=1, max_frames=8192, max_text_tokens=1024),
        compute_dtype="bfloat16",
    )
    lines = list(memory_advice.advice(config, what="decode", mesh=make_mesh(MeshConfig())))
    half = 2 * 36 * 2 * 128 * (8192 // 4 * 154 + 1024) * 2 / 2 / 2**30
    assert lines[0] == f"--kv_cache=int8 saves {half:.1f} GiB of keys and values"
    assert lines[1] == f"data.max_frames=4096 saves {half / 2:.1f} GiB of keys and values"


# ---- Held against compiled programs --------------------------------------------------------------

# Sequences are so long that the advice concerns most of the memory; these programs are not run.
LONG = TrainConfig(
    model=dataclasses.replace(
        MICRO,
        decoder=dataclasses.replace(MICRO.decoder, depth=8, width=64, max_positions=10**7),
    ),
    data=DataConfig(batch_size=1, max_frames=2**18, max_text_tokens=96),
    compute_dtype="bfloat16",
)

# Most memory is the decoder's: the other parts are frozen and work on one group at a time.
LONG_TRAINING = TrainConfig(
    model=dataclasses.replace(
        LONG.model,
        decoder=dataclasses.replace(LONG.model.decoder, mlp_width=256),
        attention="chunked",
    ),
    data=DataConfig(batch_size=4, max_frames=2**14, max_text_tokens=96),
    optim=OptimConfig(groups=(ParamGroup(pattern="^(vision|dts|projector)/", lr_scale=0.0),)),
    encode_microbatch=1,
)


def compiled(what, config, *, cache="model"):
    """Returns a program's memory in GiB: its arguments if they hold a cache, else its temporaries.

    A CPU computes in float32 and therefore copies a cache of another type, which no accelerator
    does.
    """
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        program = programs.build(what, config, mesh=mesh, cache=cache)
        memory = programs.DeviceMemory.of(program.jitted().lower(*program.arguments).compile())
    return (memory.arguments if what == "decode" else memory.temporary) / 2**30


def advised(what, config, name):
    """Returns the GiB that changes of one name save together according to the advice."""
    lines = list(memory_advice.advice(config, what=what, mesh=make_mesh(MeshConfig())))
    saved = [float(re.search(r"saves ([\d.]+)", x)[1]) for x in lines if x.startswith(name)]
    assert saved, lines
    return sum(saved)


def test_an_int8_cache_saves_about_what_is_advised():
    saved = compiled("decode", LONG) - compiled("decode", LONG, cache="int8")
    assert saved == pytest.approx(advised("decode", LONG, "--kv_cache=int8"), rel=0.25)


@pytest.mark.parametrize("what", ["decode", "assemble"])
def test_half_of_the_frames_save_about_what_is_advised(what):
    half = dataclasses.replace(LONG, data=dataclasses.replace(LONG.data, max_frames=2**17))
    cache = "int8" if what == "decode" else "model"  # The preceding advice is applied.
    saved = compiled(what, LONG, cache=cache) - compiled(what, half, cache=cache)
    told = advised(what, LONG, "data.max_frames")
    # The compiler of jax 0.12 holds one copy of the embeddings less than that of 0.10.
    assert 0.5 * told < saved < 1.35 * told


def test_remat_and_accumulation_save_about_what_is_advised():
    def recomputing(remat):
        decoder = dataclasses.replace(LONG_TRAINING.model.decoder, remat=remat)
        model = dataclasses.replace(LONG_TRAINING.model, decoder=decoder)
        return dataclasses.replace(LONG_TRAINING, model=model)

    nothing, elementwise, everything = map(recomputing, ("none", "elementwise", "all"))
    accumulated = dataclasses.replace(everything, grad_accum_steps=2)
    memory = [compiled("train", x) for x in (nothing, elementwise, everything, accumulated)]
    for index, (config, name) in enumerate(
        [
            (nothing, "model.decoder.remat=elementwise"),
            (elementwise, "model.decoder.remat"),
            (everything, "grad_accum_steps"),
        ]
    ):
        saved = advised("train", config, name)
        assert memory[index] - memory[index + 1] == pytest.approx(saved, rel=0.35), name
