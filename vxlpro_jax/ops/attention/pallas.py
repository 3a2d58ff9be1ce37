"""What the Pallas kernels share."""

import jax
import jax.numpy as jnp


def product(left: jax.Array, right: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Multiplies two matrices, contracting one axis of each, with a float32 result."""
    return jax.lax.dot_general(
        left,
        right,
        (((axes[0],), (axes[1],)), ((), ())),
        preferred_element_type=jnp.float32,
    )
