"""What a run carries from step to step."""

import functools
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vxlpro_jax.checkpoints import init_from
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.sharding.params import state_shardings
from vxlpro_jax.training.objectives import task_of
from vxlpro_jax.training.optimizer import frozen_branches
from vxlpro_jax.utils.jit import jit


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


def abstract_state(config: TrainConfig, *, optimizer, mesh) -> TrainState:
    """Shapes, types and shardings of the state, without allocating it."""

    def create():
        params = fresh_params(jax.random.key(0), config=config)
        return TrainState.create(params, optimizer=optimizer, seed=config.seed)

    shapes = jax.eval_shape(create)
    shardings = state_shardings(shapes, params=shapes.params, mesh=mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def initial_state(config: TrainConfig, *, abstract: TrainState, optimizer) -> TrainState:
    """The state before the first step, made in place on its devices."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    sources = init_from.open_sources(config.init_from)
    params = init_from.read_parts(sources, like=abstract.params, dtype=config.param_dtype)
    missing = [part for part in abstract.params if part not in params]
    if missing:
        print(f"Newly initialised: {', '.join(missing)}.")
        frozen = frozen_branches(
            {part: abstract.params[part] for part in missing}, config=config.optim
        )
        if frozen:
            print(f"Frozen as they are drawn, because init_from has none: {', '.join(frozen)}.")

        def init(key):
            fresh = fresh_params(key, config=config)
            return {part: fresh[part] for part in missing}

        where = {part: shardings.params[part] for part in missing}
        params |= jit(init, out_shardings=where)(jax.random.key(config.seed))
    create = functools.partial(TrainState.create, optimizer=optimizer, seed=config.seed)
    return jit(create, out_shardings=shardings, donate_argnums=0)(params)


def fresh_params(key: jax.Array, *, config: TrainConfig) -> dict:
    """Newly initialised parameters in the run's `param_dtype`."""
    params = task_of(config).init_params(key)
    return jax.tree.map(lambda x: x.astype(config.param_dtype), params)
