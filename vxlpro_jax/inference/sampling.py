"""Samples the next id from logits.

Shapes: `B` rows, `V` vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.jit, static_argnames=("temperature", "top_p"))
def sample(logits: jax.Array, *, key: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """Draws the next ids, int32 [B], from logits [B, V]; temperature 0 takes the first maximum."""
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        # An id stays if the ids before it have not yet reached top_p, so the likeliest always does.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.where(before < top_p, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def only(logits: jax.Array, ids: set[int]) -> jax.Array:
    """Masks logits [B, V] of all other ids with -inf; without any `ids`, returns them unchanged."""
    if not ids:
        return logits
    at = np.array(sorted(ids))
    return jnp.full_like(logits, -jnp.inf).at[:, at].set(logits[:, at])
