"""FLOPs are counted from a program's text, with every iteration of its loops."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vxlpro_jax.aot import products
from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.schema import MeshConfig
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
