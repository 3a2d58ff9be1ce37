"""Hides tokens that stay the same between frames, and keeps those that change.

Shapes: `B` clips, `T` frames of a clip, `N` tokens of a frame, `C` width.
"""

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.ops.token_masking import Policy


def motion_scores(features: jax.Array) -> jax.Array:
    """Computes the mean squared difference of each token from the frame before.

    The first frame is compared with the second.

    Args:
        features: [B, T, N, C], T at least 2.

    Returns:
        [B, T, N] in at least float32.
    """
    change = jnp.square(jnp.diff(at_least_float32(features), axis=1)).mean(axis=-1)
    return jnp.concatenate([change[:, :1], change], axis=1)


POLICY = Policy(lambda features, queries: motion_scores(features))
