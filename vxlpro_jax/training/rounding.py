"""Updates of parameters that are stored in less than float32.

Near the end of training an update is much smaller than the distance to the next bfloat16 number, so
rounding to the nearest one would leave most parameters unchanged.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vxlpro_jax.ops.precision import at_least_float32

_FLOAT32_BITS = jnp.finfo(jnp.float32).nmant


def apply_updates(params: Any, updates: Any, *, key: jax.Array) -> Any:
    """Adds updates and rounds at random, so that the expected result is exact.

    Args:
        params: tree of parameters. Those of float32 or more are added to as usual.
        updates: tree of the same structure.
        key: PRNG key.
    """
    leaves, structure = jax.tree.flatten(params)
    new = [
        round_at_random(at_least_float32(x) + update, x.dtype, key=jax.random.fold_in(key, index))
        for index, (x, update) in enumerate(zip(leaves, jax.tree.leaves(updates), strict=True))
    ]
    return structure.unflatten(new)


def round_at_random(x: jax.Array, dtype: Any, *, key: jax.Array) -> jax.Array:
    """Rounds to one of the two nearest numbers of a dtype, the nearer one more often.

    The mean of the result is `x`, except for subnormal numbers of float16.

    Args:
        x: array of float32 or more.
        dtype: dtype of the result.
        key: PRNG key.
    """
    dropped = _FLOAT32_BITS - jnp.finfo(dtype).nmant
    if dropped <= 0:
        return x.astype(dtype)
    x = x.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32) >> (16 - dropped)
    cut = (bits + noise) >> dropped << dropped
    rounded = jax.lax.bitcast_convert_type(cut, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(dtype)


class MasterState(NamedTuple):
    """Attributes: state of the `inner` transformation, and `params`, the copy in float32."""

    inner: optax.OptState
    params: Any


def with_master(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keeps a copy of the parameters in float32 or more, which `inner` updates.

    The parameters themselves are the copy, rounded to their own dtype.
    """

    def init(params):
        copy = jax.tree.map(at_least_float32, params)
        return MasterState(inner.init(copy), copy)

    def update(updates, state, params=None):
        updates, inner_state = inner.update(updates, state.inner, state.params)
        copy = optax.apply_updates(state.params, updates)
        steps = jax.tree.map(
            lambda new, x: at_least_float32(new.astype(x.dtype)) - at_least_float32(x), copy, params
        )
        return steps, MasterState(inner_state, copy)

    return optax.GradientTransformation(init, update)
