"""The TPU's attention kernel is compiled, forward and backward, for absent TPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMPILE = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from vxlpro_jax.aot.topology import topology_devices
from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.ops.attention.dispatch import attention
from vxlpro_jax.sharding import activations as places
from vxlpro_jax.sharding.mesh import make_mesh

length, fsdp, context, segmented = map(int, sys.argv[1:])
devices = topology_devices("v5e:2x2")
mesh = make_mesh(MeshConfig(fsdp=fsdp, context=context), devices=devices)
jax.set_mesh(mesh)


def array(*shape, dtype=jnp.bfloat16):
    spec = P(*places.SEQUENCES, *[None] * (len(shape) - 2))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def loss(q, k, v, segments):
    given = dict(q_segments=segments, kv_segments=segments) if segmented else {}
    out = attention(
        q, k, v, causal=True, partition=places.SEQUENCES, backend="splash", **given
    )
    return out.astype(jnp.float32).sum()


q, kv = array(4, length, 16, 128), array(4, length, 2, 128)
compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(
    q, kv, kv, array(4, length, dtype=jnp.int32)
).compile()
print(compiled.as_text().count("tpu_custom_call"), compiled.memory_analysis().temp_size_in_bytes)
"""


def compiled(length, *, fsdp, context, segmented):
    """Returns the number of kernels in the program, and its temporary bytes per device."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    words = map(str, (length, fsdp, context, int(segmented)))
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, *words], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kernels, temporary = map(int, done.stdout.split())
    return kernels, temporary


@pytest.mark.parametrize(
    ("fsdp", "context", "segmented"), [(4, 1, True), (4, 1, False), (2, 2, True), (1, 4, False)]
)
def test_splash_compiles_forward_and_backward_for_tpus(fsdp, context, segmented):
    kernels, _ = compiled(2048, fsdp=fsdp, context=context, segmented=segmented)
    assert kernels >= 3  # The forward kernel, and the gradients of queries and of keys.


def test_splash_holds_no_logits_in_memory():
    """The logits of one row of 32,768 would take 64 GiB."""
    _, temporary = compiled(32_768, fsdp=4, context=1, segmented=False)
    assert temporary < 2**30
