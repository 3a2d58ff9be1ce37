"""FLOPs are counted from a program's text, with every iteration of its loops."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vxlpro_jax.aot import products
from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.ops.attention.dispatch import attention
from vxlpro_jax.sharding import activations
from vxlpro_jax.sharding.mesh import make_mesh

pytestmark = pytest.mark.slow


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (jnp.matmul, [(7, 16), (16, 64)]),
        (functools.partial(jnp.einsum, "bnth,bnsh->bnts"), [(2, 3, 7, 16), (2, 3, 9, 16)]),
        (convolve, [(2, 9, 9, 4), (3, 3, 4, 8)]),
        (jax.grad(lambda x, k: convolve(x, k).sum(), (0, 1)), [(2, 9, 9, 4), (3, 3, 4, 8)]),
    ],
)
def test_flops_are_those_of_the_compiler(function, shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(function).lower(*arguments).compile()
    assert products.flops(compiled.as_text()) == compiled.cost_analysis()["flops"]


def test_flops_of_a_loop_count_every_iteration():
    def power(x):
        return jax.lax.fori_loop(0, 5, lambda _, y: y @ x, x)

    compiled = jax.jit(power).lower(jax.ShapeDtypeStruct((16, 16), jnp.float32)).compile()
    assert products.flops(compiled.as_text()) == 5 * 2 * 16**3


def test_flops_of_a_matrix_product_on_a_tpu():
    """A TPU computes it as a convolution, whose batch is a dimension of the window."""
    mesh = make_mesh(MeshConfig(), devices=topology_devices("v5e:2x2"))
    place = NamedSharding(mesh, PartitionSpec())
    left, right = (
        jax.ShapeDtypeStruct((2, 3, length, 72), jnp.bfloat16, sharding=place)
        for length in (128, 256)
    )
    product = jax.jit(functools.partial(jnp.einsum, "bnth,bnsh->bnts"))
    with jax.set_mesh(mesh):
        compiled = product.lower(left, right).compile()
    assert products.flops(compiled.as_text()) == 2 * 2 * 3 * 128 * 256 * 72


# ---- Attention kernels --------------------------------------------------------------------------


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
    assert products.kernel_flops(text) == 2 * (2 + 3 + 4) * pairs * 128
    assert products.attention_kernels(text) == ["splash"]


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
    assert products.flops(text) == 2 * (2 + 5) * 300 * 200 * 4 * 24
    assert products.attention_kernels(text) == ["short"]


CUDNN_PROGRAM = """\
HloModule jit_step, is_scheduled=true

ENTRY %main (q: bf16[2,64,8,128], k: bf16[2,96,2,128], v: bf16[2,96,2,128]) -> bf16[2,8,64,128] {
  %q = bf16[2,64,8,128]{3,2,1,0} parameter(0)
  %k = bf16[2,96,2,128]{3,2,1,0} parameter(1)
  %v = bf16[2,96,2,128]{3,2,1,0} parameter(2)
  ROOT %out = (bf16[2,8,64,128], u8[16]) custom-call(%q, %k, %v), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"mask_type":"NO_MASK"}
}
"""  # noqa: E501


def test_flops_of_cudnn_attention_count_its_products():
    size = 2 * 64 * 8 * 96 * 128
    assert products.flops(CUDNN_PROGRAM) == 2 * 2 * size
    assert products.flops(CUDNN_PROGRAM.replace("NO_MASK", "CAUSAL")) == 2 * size
    backward = CUDNN_PROGRAM.replace("fmhaSoftmax", "fmhaSoftmaxBackward")
    assert products.flops(backward) == 2 * 5 * size
    assert products.attention_kernels(CUDNN_PROGRAM) == ["cudnn"]


def test_other_custom_calls_count_nothing():
    program = CUDNN_PROGRAM.replace("__cudnn$fmhaSoftmax", "Sharding")
    assert products.flops(program) == 0
    assert products.attention_kernels(program) == []
