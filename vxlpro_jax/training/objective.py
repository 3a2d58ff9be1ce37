"""The interface of training objectives, and the lookup of the one that a config names.

Shapes: `B` rows, `G` groups of four frames a row, `T` text slots a row, `S` side of an image.
"""

import abc
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from vxlpro_jax.config.files import load_python_file
from vxlpro_jax.config.schema import FRAMES_PER_GROUP, STAMP_TOKENS, TrainConfig
from vxlpro_jax.sharding.params import Rules
from vxlpro_jax.training.flops import Forward
from vxlpro_jax.utils.errors import InputError
from vxlpro_jax.utils.registry import Registry

Batch = dict[str, Any]


class Loss(NamedTuple):
    """The result of an objective on a batch.

    Attributes:
        value: scalar to be minimised.
        weight: number of targets or hidden tokens over which `value` is the mean; may be zero.
        metrics: scalars by name to report with it; with gradient accumulation, integers are summed
            over the microbatches and all others are averaged.
    """

    value: jax.Array
    weight: jax.Array
    metrics: dict[str, jax.Array]


class Objective(abc.ABC):
    """What a run learns: parameters, loss, FLOPs and batches. One object serves one config."""

    reads_text: ClassVar[bool] = True
    """Whether batches hold text, so that the run needs a tokenizer."""
    reads_compressed: ClassVar[bool] = False
    """Whether the loss accepts `compressed`, the output of a frozen DTS, in place of frames."""
    is_evaluated: ClassVar[bool] = False
    """Whether `eval_every` may be set: held-out clips are evaluated as in `evals.recot`."""
    sharding_rules: ClassVar[Rules] = ()
    """Patterns and PartitionSpecs of parameters that are missing in `sharding.params`' table."""
    full_size_flags: ClassVar[str] = ""
    """Command-line flags of a full-size run, which a run of the tiny preset prints."""

    def __init__(self, config: TrainConfig):
        """Stores the config of the run."""
        self.config = config

    @abc.abstractmethod
    def init_params(self, key: jax.Array) -> dict:
        """Draws a float32 parameter tree from a PRNG key."""

    @abc.abstractmethod
    def loss(self, params: dict, batch: Batch, *, key: jax.Array) -> Loss:
        """Computes the loss of a batch, as a pure function that is jitted and differentiated.

        Args:
            params: parameter tree.
            batch: arrays as in `batch_spec`; `features` [B,G,4,P,C] of a frozen tower, or
                `compressed` [B,G,P,C] of a frozen DTS, may take the place of `frames`.
            key: PRNG key of the step.
        """

    @abc.abstractmethod
    def forward_flops(self, *, groups: Any, text_tokens: Any = 0.0, targets: Any = 0.0) -> Forward:
        """Counts the FLOPs of the forward pass of a row.

        Args:
            groups: number of groups of four frames; a scalar, or an array with one per row.
            text_tokens: number of text ids, likewise.
            targets: number of positions whose logits are computed, likewise.
        """

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and types of the global batch, over all devices."""
        data, side = self.config.data, self.config.model.vision.image_size
        groups = (data.batch_size, data.max_frames // FRAMES_PER_GROUP)
        shapes = {"stamp_ids": (*groups, STAMP_TOKENS), "group_segments": groups}
        if self.reads_text:
            text = (data.batch_size, data.max_text_tokens)
            shapes |= dict.fromkeys(("tokens", "token_segments", "labels"), text)
        frames = jax.ShapeDtypeStruct((*groups, FRAMES_PER_GROUP, side, side, 3), jnp.uint8)
        integers = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
        return {"frames": frames, **integers}


_REGISTRY: Registry[type[Objective]] = Registry(
    "vxlpro_jax.training.objectives", attribute="OBJECTIVE", kind="objective"
)


def objective_of(config: TrainConfig) -> Objective:
    """Finds the config's objective: a module of `training.objectives`, or a Python file.

    Raises:
        InputError: no module has this name, or the file defines no `OBJECTIVE`.
    """
    if not config.objective.endswith(".py"):
        return _REGISTRY.find(config.objective)(config)
    path = Path(config.objective).expanduser()
    if not path.is_file():
        raise InputError(f"config.objective: file {path} does not exist.")
    found = getattr(load_python_file(path), "OBJECTIVE", None)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise InputError(
            f"config.objective: {path} has no OBJECTIVE that is a subclass of"
            " vxlpro_jax.training.objective.Objective."
        )
    return found(config)
