"""The gated hidden layer of Qwen2.5.

Shapes: `...` any leading axes, `M` their product, `D` width, `F` hidden width.
"""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.full_rows import with_full_rows
from vxlpro_jax.sharding import activations


def swiglu(x: jax.Array, *, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """Computes `down (silu(gate x) * (up x))` for every vector x, in the weights' type.

    Args:
        x: [..., D].
        gate: [F, D].
        up: [F, D].
        down: [D, F].

    Returns:
        [..., D].
    """
    x = jnp.asarray(x, gate.dtype)
    # Merging the leading axes would move data between the devices of a mesh.
    if activations.platform() == "cpu" and activations.axis_size(activations.ALL_AXES) == 1:
        return _features_first(x, gate, up, down)
    return with_full_rows(lambda x: (jax.nn.silu(x @ gate.T) * (x @ up.T)) @ down.T, x)


def _features_first(x, gate, up, down):
    """Computes the products with the weights on the left, which is fastest on CPUs.

    The barriers keep XLA from reversing the products to avoid the transposition of x.
    """
    columns = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
    hidden = jax.nn.silu(gate @ columns) * (up @ columns)
    return jax.lax.optimization_barrier(down @ hidden).T.reshape(x.shape)
