"""Values of the parameters that no source provides, drawn as the release's modules draw them."""

import math
import re
import zlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from vxlpro_jax.param_store import LazyLeaf

Draw = Callable[[np.random.Generator, tuple[int, ...], int], np.ndarray]


def _zeros(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _ones(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _xavier(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    return _uniform(rng, shape, math.sqrt(6 / sum(shape)))


def _torch_default(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Of torch's Linear and Conv: kaiming_uniform(a=sqrt(5)) comes to this for both tensors."""
    return _uniform(rng, shape, 1 / math.sqrt(fan_in))


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    return rng.random(shape, np.float32) * np.float32(2 * bound) - np.float32(bound)


# The first pattern found in a torch name decides. Temporal attention starts as the identity.
_RULES: tuple[tuple[str, Draw], ...] = (
    (r"sae\.temporal_encoding$", _normal),
    (r"sae\.encoder\.[14]\.(qkv|proj_out)\.", _zeros),
    (r"\.embeddings_table$", _xavier),
    (r"\.norm\.weight$", _ones),
    (r"\.norm\.bias$", _zeros),
    (r"\.(weight|bias)$", _torch_default),
)


def initialize(structs: Mapping[str, jax.ShapeDtypeStruct], *, seed: int) -> dict[str, LazyLeaf]:
    """Fresh float32 tensors for torch names, drawn when read; each depends on seed and name alone.

    Args:
        structs: names with shapes; a bias comes with the weight beside it.
        seed: not negative.
    """
    return {name: _leaf(name, structs, seed) for name in structs}


def _leaf(name: str, structs: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> LazyLeaf:
    shape = structs[name].shape
    weight = structs.get(re.sub(r"\.bias$", ".weight", name), structs[name])
    draw = next(draw for pattern, draw in _RULES if re.search(pattern, name))

    def read(start, stop):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return draw(rng, shape, math.prod(weight.shape[1:]))[start:stop]

    return LazyLeaf(shape=shape, dtype=np.dtype(np.float32), rows=shape[0], read=read)
