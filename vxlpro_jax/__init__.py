"""Video-XL-Pro in JAX/Flax: train, convert and run long-video language models.

    import vxlpro_jax

    model = vxlpro_jax.load_model("runs/tiny")
    engine = vxlpro_jax.Engine(model)
    print(engine.ask("clip.mp4", "What moves?"))

The names below are imported when they are first used, so that importing the package is quick and
starts no JAX backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vxlpro_jax.config.schema import InferenceConfig, ModelConfig, TrainConfig
    from vxlpro_jax.inference.decoder import TokenScores
    from vxlpro_jax.inference.encoder import Encoded
    from vxlpro_jax.inference.engine import Engine
    from vxlpro_jax.inference.loading import LoadedModel, load_model
    from vxlpro_jax.inference.options import Options
    from vxlpro_jax.utils.errors import Failure, InputError

__version__ = "0.1.0"
__all__ = [
    "Encoded",
    "Engine",
    "Failure",
    "InferenceConfig",
    "InputError",
    "LoadedModel",
    "ModelConfig",
    "Options",
    "TokenScores",
    "TrainConfig",
    "load_model",
]

_MODULES = {
    "Encoded": "inference.encoder",
    "Engine": "inference.engine",
    "Failure": "utils.errors",
    "InferenceConfig": "config.schema",
    "InputError": "utils.errors",
    "LoadedModel": "inference.loading",
    "ModelConfig": "config.schema",
    "Options": "inference.options",
    "TokenScores": "inference.decoder",
    "TrainConfig": "config.schema",
    "load_model": "inference.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
