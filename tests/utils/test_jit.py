"""Tests the compiler options for CPUs."""

import jax
import jax.numpy as jnp

from vxlpro_jax.utils.jit import jit


def test_half_precision_layers_are_converted_one_at_a_time():
    """Converting all layers before the scan would hold all weights in float32."""
    depth, width = 12, 256
    layers = jax.ShapeDtypeStruct((depth, width, width), jnp.bfloat16)
    x = jax.ShapeDtypeStruct((4, width), jnp.bfloat16)

    def run(layers, x):
        return jax.lax.scan(lambda x, layer: (jnp.tanh(x @ layer), None), x, layers)[0]

    memory = jit(run).lower(layers, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * depth * width**2 / 2
