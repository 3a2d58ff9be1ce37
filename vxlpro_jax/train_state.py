"""What a run carries from step to step."""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """Attributes.

    step: int32 scalar, steps done.
    params: nested dict.
    opt_state: the optimizer's.
    key: PRNG key data of the run; each step folds its number in.
    """

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    key: jax.Array

    @classmethod
    def create(cls, params: dict, *, optimizer: optax.GradientTransformation, seed: int) -> Self:
        """The state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            key=jax.random.key_data(jax.random.key(seed)),
        )
