"""Everything that follows from the config of a run, derived once."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax

from vxlpro_jax.config.release_keys import DEFAULT_PINPOINTS
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.training import optimizer as optimizer_lib
from vxlpro_jax.training.objective import Objective, objective_of


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run's config with its objective, parameter shapes, frozen parts and optimizer.

    Members are computed on first use, and nothing is allocated on devices.

    Attributes:
        config: config of the run.
        release: content of the config.json that the model comes from, whose other keys are kept;
            empty for a model from scratch.
    """

    config: TrainConfig
    release: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @functools.cached_property
    def objective(self) -> Objective:
        """The objective that the config names."""
        return objective_of(self.config)

    @property
    def pinpoints(self) -> Any:
        """Tilings of pictures; see `images.parse_pinpoints`."""
        return self.release.get("image_grid_pinpoints") or DEFAULT_PINPOINTS

    @functools.cached_property
    def param_shapes(self) -> dict:
        """Parameter tree of `jax.ShapeDtypeStruct`, float32."""
        return jax.eval_shape(lambda: self.objective.init_params(jax.random.key(0)))

    @functools.cached_property
    def frozen(self) -> frozenset[str]:
        """Top-level branches in which every parameter is frozen."""
        branches = optimizer_lib.frozen_branches(self.param_shapes, config=self.config.optim)
        return frozenset(branches)

    @functools.cached_property
    def schedule(self) -> optax.Schedule:
        """Learning rate of each step."""
        return optimizer_lib.schedule(self.config.optim, total_steps=self.config.total_steps)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Transformation of gradients to updates."""
        return optimizer_lib.optimizer(self.config.optim, total_steps=self.config.total_steps)

    def fresh_params(self, key: jax.Array) -> dict:
        """Draws a parameter tree in the run's `param_dtype`."""
        params = self.objective.init_params(key)
        return jax.tree.map(lambda x: x.astype(self.config.param_dtype), params)

    def replace(self, **changes) -> "RunPlan":
        """Returns the plan of the config with the fields in `changes` replaced."""
        return RunPlan(dataclasses.replace(self.config, **changes), self.release)
