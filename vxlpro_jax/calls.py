"""Methods of the model as compiled functions."""

import functools
from collections.abc import Callable

from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.models.video_xl_pro import VideoXLPro
from vxlpro_jax.utils.jit import jit


@functools.cache
def compiled(config: ModelConfig, method: str | Callable, donate: tuple[int, ...] = ()) -> Callable:
    """A method of the model as a jitted function of parameters and inputs, made once.

    Args:
        config: of the model.
        method: its name, or a function of the bound model and the inputs.
        donate: which inputs, counted from 0, may be overwritten.
    """

    def apply(params, *inputs):
        return VideoXLPro(config).apply({"params": params}, *inputs, method=method)

    return jit(apply, donate_argnums=tuple(1 + index for index in donate))
