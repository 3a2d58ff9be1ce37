"""The training state, which every step takes and returns."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from vxlpro_jax.checkpoints import init_from
from vxlpro_jax.sharding.params import state_shardings
from vxlpro_jax.training.optimizer import updates_done
from vxlpro_jax.training.plan import RunPlan
from vxlpro_jax.utils.jit import jit


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: number of steps done, including skipped ones; int32 scalar.
        params: nested dict of parameters.
        opt_state: state of the optimizer.
        key: PRNG key data of the run; each step folds in its own number.
    """

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    key: jax.Array

    @property
    def skipped_steps(self) -> jax.Array:
        """Number of steps without an update because gradients were not finite; int32 scalar."""
        return self.step - updates_done(self.opt_state)

    @classmethod
    def create(cls, params: dict, *, optimizer: optax.GradientTransformation, seed: int) -> Self:
        """Makes the state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            key=jax.random.key_data(jax.random.key(seed)),
        )


def abstract_state(plan: RunPlan, *, mesh: Mesh | AbstractMesh) -> TrainState:
    """Returns shapes, types and shardings of the state, without allocating it."""
    create = functools.partial(TrainState.create, optimizer=plan.optimizer, seed=plan.config.seed)
    dtype = jnp.dtype(plan.config.param_dtype)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), plan.param_shapes)
    shapes = jax.eval_shape(create, params)
    shardings = state_shardings(
        shapes, params=shapes.params, mesh=mesh, more_rules=plan.objective.sharding_rules
    )
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def initial_state(plan: RunPlan, *, abstract: TrainState) -> TrainState:
    """Creates the state before the first step, directly on its devices.

    Parts come from `init_from`; those that it lacks are drawn.

    Raises:
        InputError: `init_from` is no checkpoint, or holds parts of other sizes.
    """
    config = plan.config
    sources = init_from.open_sources(config.init_from)
    params = init_from.read_parts(sources, like=abstract.params, dtype=config.param_dtype)
    missing = [part for part in abstract.params if part not in params]
    if missing:
        print(f"Newly initialised: {', '.join(missing)}.")
        frozen = [part for part in missing if part in plan.frozen]
        if frozen:
            print(f"Frozen at initial values, because init_from has none: {', '.join(frozen)}.")
        params |= _fresh_parts(plan, missing, like=abstract.params)
    create = functools.partial(TrainState.create, optimizer=plan.optimizer, seed=config.seed)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jit(create, out_shardings=shardings, donate_argnums=0)(params)


def _fresh_parts(plan: RunPlan, parts: Sequence[str], *, like: Mapping[str, Any]) -> dict:
    """Draws new parts of the parameters, with the shardings of `like`."""

    def init(key):
        fresh = plan.fresh_params(key)
        return {part: fresh[part] for part in parts}

    shardings = {part: jax.tree.map(lambda x: x.sharding, like[part]) for part in parts}
    return jit(init, out_shardings=shardings)(jax.random.key(plan.config.seed))
