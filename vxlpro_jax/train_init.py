"""The state of a run before its first step, from scratch or from checkpoints of other runs."""

import functools

import jax

from vxlpro_jax import optim
from vxlpro_jax.checkpoints import init_from
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.sharding.params import state_shardings
from vxlpro_jax.tasks import task_of
from vxlpro_jax.train_state import TrainState
from vxlpro_jax.utils.jit import jit


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
        frozen = optim.frozen_branches(
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
