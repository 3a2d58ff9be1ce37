"""One attention function with named backends, on one device or spread over the mesh.

Shapes: `B` rows, `T` queries, `S` keys, `N` query heads, `K` key/value heads (N a multiple of K),
`H` head width.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vxlpro_jax.config.schema import AttentionBackend
from vxlpro_jax.ops.attention import chunked, cudnn, splash, xla
from vxlpro_jax.ops.attention.interface import Inputs, Kernel, Part
from vxlpro_jax.sharding import activations
