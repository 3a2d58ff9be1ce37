"""The mask of ReCoT: which tokens of a clip are hidden from the compressor.

A policy of `ops/mask_policies` scores every token; low scores are hidden at random, guided by the
score. The noise, the number of hidden tokens and the gradient of the choice are unpublished: here
they are ours. So is the choice of a group of four frames as a clip.

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
    """One way to choose the tokens that are hidden.

    Attributes:
        scores: from features [B, T, N, C] and the learned queries by name to scores [B, T, N] in at
            least float32. Tokens with low scores are hidden at random, guided by the score.
        queries: names of the learned queries; each is a linear map [..., C] -> [..., C] without a
            bias, whose parameters are named `NAME_query`.
        hides_tubes: whether all frames share the noise, so that a place is hidden throughout.
    """

    scores: Callable[[jax.Array, Mapping[str, Callable]], jax.Array]
    queries: tuple[str, ...] = ()
    hides_tubes: bool = False


POLICIES: Registry[Policy] = Registry(
    "vxlpro_jax.ops.mask_policies", attribute="POLICY", kind="mask policy"
)


def equal_scores(features: jax.Array, queries: Mapping[str, Callable]) -> jax.Array:
    """The scores of a policy that ignores the content: zeros [B, T, N]."""
    return jnp.zeros(features.shape[:3], at_least_float32(features).dtype)


def noisy_scores(scores: jax.Array, *, key: jax.Array, tube: bool = False) -> jax.Array:
    """Standardised scores of each clip plus Gumbel noise, to be ranked.

    Equal scores leave the noise alone, which makes every choice as likely as any other.

    Args:
        scores: [B, T, N].
        key: of the noise.
        tube: one draw for all frames of a place, so that places are hidden throughout.

    Returns:
        [B, T, N].
    """
    centred = scores - scores.mean(axis=(1, 2), keepdims=True)
    spread = jnp.sqrt(jnp.square(centred).mean(axis=(1, 2), keepdims=True) + _EPS**2)
    clips, frames, tokens = scores.shape
    noise = jax.random.gumbel(key, (clips, 1 if tube else frames, tokens), scores.dtype)
    return centred / spread + noise


def adaptive_ratio(features: jax.Array, *, low: float, high: float) -> jax.Array:
    """How much of each clip to hide: the more alike its frames are, the more.

    Args:
        features: [B, T, N, C], T at least 2.
        low: share hidden of a clip whose neighbouring frames have nothing in common.
        high: share hidden of a still clip.

    Returns:
        [B], from `low` to `high` by the mean cosine similarity of tokens at the same place in
        neighbouring frames, negative ones counting as 0.
    """
    x = at_least_float32(features)
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), _EPS)
    similarity = jnp.einsum("btnc,btnc->btn", x[:, 1:], x[:, :-1])
    alike = jnp.clip(similarity, 0, 1).mean(axis=(1, 2))
    return low + (high - low) * alike


def choose_visible(ranked: jax.Array, *, ratio: jax.Array) -> jax.Array:
    """Marks what stays visible: 1 for the highest, 0 for the others, exactly.

    The gradient is that of a sigmoid around the lowest visible value, as wide as the clip's spread
    (straight-through), so that training can move a token across the boundary.

    Args:
        ranked: [B, T, N].
        ratio: [B], share of the tokens to hide; floor(ratio N) T of them are hidden. Ties hide all
            frames of a place before the next place.

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
    spread = jnp.maximum(fixed.std(axis=-1, keepdims=True), _EPS)
    soft = jax.nn.sigmoid((flat - boundary) / spread)
    visible = is_visible.astype(flat.dtype) + (soft - jax.lax.stop_gradient(soft))
    return rearrange(visible, "b (n t) -> b t n", t=frames)
