"""Computing in parts equals computing the whole, and only one part is in memory at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.aot.collectives import collectives
from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.ops.microbatch import microbatched_map
from vxlpro_jax.sharding import mesh

WIDTH = 64


def wide(weights, x):
    """Maps [f, 1] -> [f, 2] with a wide intermediate array."""
    return jnp.tanh(x @ weights)[:, :2] * x


def given(frames):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(frames, 1))), jnp.asarray(rng.normal(size=(1, WIDTH)))


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "microbatch"), [(12, 0), (12, 12), (12, 5), (7, 3), (1, 1)])
def test_values_and_gradients_equal_those_of_one_call(frames, microbatch):
    x, weights = given(frames)

    def loss(x, weights, microbatch):
        y = microbatched_map(wide, weights, x, microbatch=microbatch)
        return (y * jnp.arange(frames)[:, None]).sum(), y

    (_, parts), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, weights, microbatch)
    (_, whole), expected = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, weights, 0)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, expected
    )


@pytest.mark.parametrize(("microbatch", "most"), [(0, 12), (6, 6), (5, 4), (1, 1)])
def test_intermediate_values_are_at_most_a_microbatch(microbatch, most):
    x, weights = given(12)

    def loss(x):
        return microbatched_map(wide, weights, x, microbatch=microbatch).sum()

    def wide_rows(jaxpr):
        for equation in jaxpr.eqns:
            for var in equation.outvars:
                if var.aval.ndim and var.aval.shape[-1] == WIDTH:
                    yield var.aval.size // WIDTH
            for inner in jaxprs_in_params(equation.params):
                yield from wide_rows(inner)

    assert max(wide_rows(jax.make_jaxpr(jax.grad(loss))(x).jaxpr)) == most


def test_gradients_of_many_microbatches_are_added_in_float32():
    """In bfloat16, sums from 256 on would lose steps of 1."""

    def loss(weights):
        return microbatched_map(
            lambda w, x: x * w, weights, jnp.ones((1000, 1), jnp.bfloat16), microbatch=1
        )

    grad = jax.grad(lambda w: loss(w).astype(jnp.float32).sum())(jnp.ones((1,), jnp.bfloat16))
    assert grad.dtype == jnp.bfloat16
    assert grad.item() == 1000


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [1, 4])
@pytest.mark.parametrize(
    ("specs", "summed_by"), [(None, "all-reduce"), (P("fsdp"), "reduce-scatter")]
)
def test_devices_exchange_parameters_and_gradients_once(microbatch, specs, summed_by):
    devices = topology_devices("v5e:2x4")
    with jax.set_mesh(mesh.make_mesh(MeshConfig(), devices=devices)):
        weights = _placed((512, 512), P("fsdp"))
        x = _placed((64, 512), P(("data", "fsdp")))

        def loss(weights, x):
            return jnp.tanh(
                microbatched_map(lambda w, x: x @ w, weights, x, microbatch=microbatch, specs=specs)
            ).sum()

        program = jax.jit(jax.grad(loss)).lower(weights, x).compile().as_text()
    counts = {name: kind.count for name, kind in collectives(program).items()}
    assert counts == {"all-gather": 1, summed_by: 1}


def _placed(shape, spec):
    place = NamedSharding(jax.sharding.get_mesh(), spec)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
