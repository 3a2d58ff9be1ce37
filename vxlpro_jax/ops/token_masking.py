"""The mask of ReCoT, which chooses the tokens of a clip that are hidden from the compressor.

A policy of `ops/mask_policies` scores every token; tokens are hidden at random, preferring low
scores. The noise, the number of hidden tokens, the gradient of the choice and the use of a group of
four frames as a clip are unpublished; here they are our own choices.

Shapes: `B` clips, `T` frames of a clip, `N` tokens of a frame, `C` width.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.ops.precision import at_least_float32
from vxlpro_jax.utils.registry import Registry

_EPS = 1e-6


class Policy(NamedTuple):
    """A way to choose the tokens that are hidden.

    Attributes:
        scores: function that maps features [B, T, N, C] and the learned queries by name to scores
            [B, T, N] in at least float32. Tokens are hidden at random, preferring low scores.
        queries: names of the learned queries; each is a linear map [..., C] -> [..., C] without a
            bias, whose parameters are named `NAME_query`.
        hides_tubes: whether all frames share the noise, so that a place is hidden in all of them.
    """

    scores: Callable[[jax.Array, Mapping[str, Callable]], jax.Array]
    queries: tuple[str, ...] = ()
    hides_tubes: bool = False


POLICIES: Registry[Policy] = Registry(
    "vxlpro_jax.ops.mask_policies", attribute="POLICY", kind="mask policy"
)


def equal_scores(features: jax.Array, queries: Mapping[str, Callable]) -> jax.Array:
    """Returns zeros [B, T, N], the scores of a policy that ignores the content."""
    return jnp.zeros(features.shape[:3], at_least_float32(features).dtype)


def noisy_scores(scores: jax.Array, *, key: jax.Array, tube: bool = False) -> jax.Array:
    """Standardises the scores of each clip and adds Gumbel noise.

    If all scores are equal, the noise alone decides, and every choice is equally likely.

    Args:
        scores: [B, T, N].
        key: PRNG key of the noise.
        tube: whether all frames share the noise of a place, so that it is hidden in all of them.

    Returns:
        [B, T, N].
    """
    centred = scores - scores.mean(axis=(1, 2), keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(axis=(1, 2), keepdims=True) + _EPS**2)
    clips, frames, tokens = scores.shape
    noise = jax.random.gumbel(key, (clips, 1 if tube else frames, tokens), scores.dtype)
    return centred / deviation + noise


def adaptive_ratio(features: jax.Array, *, low: float, high: float) -> jax.Array:
    """Chooses the share of each clip to hide, which grows with the similarity of its frames.

    Args:
        features: [B, T, N, C], T at least 2.
        low: share for a clip whose neighbouring frames have nothing in common.
        high: share for a still clip.

    Returns:
        [B], between `low` and `high` by the mean cosine similarity of tokens at the same place in
        neighbouring frames, where negative similarities count as 0.
    """
    x = at_least_float32(features)
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), _EPS)
    similarity = jnp.einsum("btnc,btnc->btn", x[:, 1:], x[:, :-1])
    alike = jnp.clip(similarity, 0, 1).mean(axis=(1, 2))
    return low + (high - low) * alike


def choose_visible(ranked: jax.Array, *, ratio: jax.Array) -> jax.Array:
    """Marks visible tokens with 1 and hidden ones, which rank lowest, with 0, exactly.

    The gradient is straight-through: it is that of a sigmoid centred on the lowest visible value,
    as wide as the clip's standard deviation, so that training can move a token across the boundary.

    Args:
        ranked: [B, T, N], noisy scores.
        ratio: [B], share of the tokens to hide; floor(ratio N) T of them are hidden. Among equal
            scores, all frames of one place are hidden before the next place.

    Returns:
        [B, T, N] in the type of `ranked`.
    """
    frames, tokens = ranked.shape[1:]
    flat = rearrange(ranked, "b t n -> b (n t)")
    hidden = jnp.floor(ratio * tokens + _EPS).astype(jnp.int32)[:, None] * frames
    fixed = jax.lax.stop_gradient(flat)
    order = jnp.argsort(fixed, axis=-1, stable=True)
    high = jnp.broadcast_to(jnp.arange(order.shape[-1]) >= hidden, order.shape)
    is_visible = jnp.put_along_axis(high, order, high, axis=-1, inplace=False)
    boundary = jnp.min(fixed, axis=-1, keepdims=True, initial=jnp.inf, where=is_visible)
    deviation = jnp.maximum(fixed.std(axis=-1, keepdims=True), _EPS)
    soft = jax.nn.sigmoid((flat - boundary) / deviation)
    visible = is_visible.astype(flat.dtype) + (soft - jax.lax.stop_gradient(soft))
    return rearrange(visible, "b (n t) -> b t n", t=frames)
