"""Which tokens of a clip ReCoT hides from the compressor.

Semantic-guided masking follows what is public of Video-XL-Pro's Algorithm 1: a token scores its
product with a query made from the token at the same place one frame earlier, plus its product with
a query made from the mean of its own frame; low scores are hidden at random, guided by the score.
The noise, how many are hidden and the gradient to the scores are not public: here they are ours. So
is that a clip is one group of four frames.

Shapes: `B` clips, `T` frames of a clip, `N` tokens of a frame, `C` width.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from vxlpro_jax.ops.precision import at_least_float32

_EPS = 1e-6


def neighbours(features: jax.Array) -> jax.Array:
    """Each token's predecessor at the same place; in the first frame its successor. [B, T, N, C].

    Differs from the public algorithm, which gives zeros to the first frame of a video, because of a
    group of four frames that is a quarter, which would be scored by one product and not by two.
    """
    return jnp.concatenate([features[:, 1:2], features[:, :-1]], axis=1)


def semantic_scores(features: jax.Array, *, temporal: jax.Array, spatial: jax.Array) -> jax.Array:
    """SGM's score of every token, in at least float32.

    Args:
        features: [B, T, N, C].
        temporal: [B, T, N, C], the learned query of `neighbours`.
        spatial: [B, T, C], the learned query of the frames' means.

    Returns:
        [B, T, N].
    """
    features, temporal, spatial = (at_least_float32(x) for x in (features, temporal, spatial))
    same_place = jnp.einsum("btnc,btnc->btn", features, temporal)
    return same_place + jnp.einsum("btnc,btc->btn", features, spatial)


def motion_scores(features: jax.Array) -> jax.Array:
    """Mean squared difference from the neighbouring frame: what stands still scores low.

    The first frame is compared with the second, so that it is not hidden for being the first.

    Args:
        features: [B, T, N, C], T at least 2.

    Returns:
        [B, T, N] in at least float32.
    """
    change = jnp.square(jnp.diff(at_least_float32(features), axis=1)).mean(axis=-1)
    return jnp.concatenate([change[:, :1], change], axis=1)


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
