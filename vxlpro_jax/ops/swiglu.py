"""The gated hidden layer of Qwen2.5.

Shapes: `...` any leading axes, `M` their product, `D` width, `F` hidden width.
"""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops import mesh


def swiglu(x: jax.Array, *, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """`(silu(x gate) * (x up)) down`, in the weights' type.

    Args:
        x: [..., D].
        gate: [D, F].
        up: [D, F].
        down: [F, D].

    Returns:
        [..., D].
    """
    x = jnp.asarray(x, gate.dtype)
    # On a CPU the product is a quarter faster with the longer axis of its result in front. Merging
    # the leading axes would move data between the devices of a mesh.
    if jax.default_backend() == "cpu" and mesh.axis_size(mesh.ALL_AXES) == 1:
        return _features_first(x, gate, up, down)
    return (jax.nn.silu(x @ gate) * (x @ up)) @ down


def _features_first(x, gate, up, down):
    rows = x.reshape(-1, x.shape[-1])
    hidden, linear = (jnp.einsum("df,md->fm", kernel, rows) for kernel in (gate, up))
    out = jnp.einsum("fm,fd->md", jax.nn.silu(hidden) * linear, down)
    return out.reshape(x.shape)
