"""Attention kernels are found in a program's text, with their FLOPs and bytes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from helpers import MICRO
from jax.sharding import NamedSharding, PartitionSpec

from vxlpro_jax.aot import kernels, programs
from vxlpro_jax.aot.products import flops
from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.schema import DataConfig, DecoderConfig, MeshConfig, TrainConfig
from vxlpro_jax.ops.attention.dispatch import attention
from vxlpro_jax.sharding import activations
from vxlpro_jax.sharding.mesh import make_mesh

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("is_causal", [True, False])
def test_flops_of_splash_attention_count_its_products(is_causal):
    """Forward 2 products, gradients 3 and 4, of which a causal mask hides half."""
    mesh = make_mesh(MeshConfig(fsdp=4), devices=topology_devices("v5e:2x2"))

    def loss(q, k, v):
        out = attention(
            q, k, v, causal=is_causal, partition=activations.SEQUENCES, backend="splash"
        )
        return out.astype(jnp.float32).sum()

    place = NamedSharding(mesh, PartitionSpec(*activations.SEQUENCES))
    keys = 256 if is_causal else 512
    q, kv = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
        for shape in ((4, 256, 8, 128), (4, keys, 2, 128))
    )
    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv).compile().as_text()
    pairs = 8 * 256 * keys // (2 if is_causal else 1)
    assert flops(text) == 2 * (2 + 3 + 4) * pairs * 128
    assert kernels.names(text) == ["splash"]


def test_flops_of_short_attention_count_its_products():
    """One row per device: forward 2 products, gradients 5."""
    mesh = make_mesh(MeshConfig(fsdp=4), devices=topology_devices("v5e:2x2"))
    place = NamedSharding(mesh, activations.FRAMES)
    q, kv = (
        jax.ShapeDtypeStruct((4, length, 4, 24), jnp.bfloat16, sharding=place)
        for length in (300, 200)
    )

    def loss(q, k, v):
        return attention(q, k, v, backend="short").astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv).compile().as_text()
    assert flops(text) == 2 * (2 + 5) * 300 * 200 * 4 * 24
    assert kernels.names(text) == ["short"]


CUDNN_PROGRAM = """\
HloModule jit_step, is_scheduled=true

ENTRY %main (q: bf16[2,64,8,128], k: bf16[2,96,2,128], v: bf16[2,96,2,128]) -> bf16[2,8,64,128] {
  %q = bf16[2,64,8,128]{3,2,1,0} parameter(0)
  %k = bf16[2,96,2,128]{3,2,1,0} parameter(1)
  %v = bf16[2,96,2,128]{3,2,1,0} parameter(2)
  ROOT %out = (bf16[2,8,64,128], u8[16]) custom-call(%q, %k, %v), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"mask_type":"NO_MASK"}
}
"""  # noqa: E501


def test_the_cache_of_a_layer_is_read_once():
    """The kernel gets the cache of all 5 layers; a step reads K and V of one, in 2 bytes."""
    config = DecoderConfig(width=512, depth=5, num_heads=4, num_kv_heads=2, mlp_width=64)
    model = dataclasses.replace(MICRO, decoder=config)
    data = DataConfig(batch_size=1, max_frames=512, max_text_tokens=64)
    train = TrainConfig(model=model, data=data, compute_dtype="bfloat16")
    mesh = make_mesh(MeshConfig(), devices=topology_devices("v6e:1x1"))
    with jax.set_mesh(mesh):
        program = programs.build("decode", train, mesh=mesh)
        slots = program.arguments[0].keys.data.shape[2]
        text = program.jitted().lower(*program.arguments).compile().as_text()
    assert kernels.names(text) == ["cached"]
    times, work, moved = map(sum, zip(*kernels.kernels(text), strict=True))
    assert times == 5
    assert work == 2 * 2 * slots * 4 * 128
    read = 2 * slots * 256 * 2
    assert read < moved < 1.02 * read


def test_flops_of_cudnn_attention_count_its_products():
    size = 2 * 64 * 8 * 96 * 128
    assert flops(CUDNN_PROGRAM) == 2 * 2 * size
    assert flops(CUDNN_PROGRAM.replace("NO_MASK", "CAUSAL")) == 2 * size
    backward = CUDNN_PROGRAM.replace("fmhaSoftmax", "fmhaSoftmaxBackward")
    assert flops(backward) == 2 * 5 * size
    assert kernels.names(CUDNN_PROGRAM) == ["cudnn"]


def test_other_custom_calls_count_nothing():
    program = CUDNN_PROGRAM.replace("__cudnn$fmhaSoftmax", "Sharding")
    assert flops(program) == 0
    assert kernels.names(program) == []
