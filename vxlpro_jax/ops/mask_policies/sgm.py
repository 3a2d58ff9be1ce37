"""Semantic-guided masking, as far as Algorithm 1 of Video-XL-Pro is public.

A token's score is its product with a query made from the token at the same place one frame earlier,
plus its product with a query made from the mean of its own frame.

Shapes: `B` clips, `T` frames of a clip, `N` tokens of a frame, `C` width.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.ops.token_masking import Policy
from vxlpro_jax.sharding import activations


def scores(features: jax.Array, queries: Mapping[str, Callable]) -> jax.Array:
    """Computes scores [B, T, N] of features [B, T, N, C]."""
    # The queries are constrained: XLA's partitioner otherwise gets the gradient of the mean wrong
    # on meshes that shard frames over two axes and the query over a third.
    temporal = activations.shard_frames(queries["temporal"](neighbours(features)))
    spatial = activations.shard_frames(queries["spatial"](features.mean(axis=2)))
    return semantic_scores(features, temporal=temporal, spatial=spatial)


def neighbours(features: jax.Array) -> jax.Array:
    """Takes each token's predecessor at the same place, [B, T, N, C]; its successor in frame 0.

    The public algorithm uses zeros for the first frame of a video. In groups of four frames that
    would score a quarter of all tokens by one product instead of two.
    """
    return jnp.concatenate([features[:, 1:2], features[:, :-1]], axis=1)


def semantic_scores(features: jax.Array, *, temporal: jax.Array, spatial: jax.Array) -> jax.Array:
    """Computes the score of every token in at least float32.

    Args:
        features: [B, T, N, C].
        temporal: [B, T, N, C], learned query of `neighbours`.
        spatial: [B, T, C], learned query of the frames' means.

    Returns:
        [B, T, N].
    """
    features, temporal, spatial = (at_least_float32(x) for x in (features, temporal, spatial))
    same_place = jnp.einsum("btnc,btnc->btn", features, temporal)
    return same_place + jnp.einsum("btnc,btc->btn", features, spatial)


POLICY = Policy(scores, queries=("temporal", "spatial"))
