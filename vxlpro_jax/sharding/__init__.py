"""One table: parameter path to PartitionSpec. Knows trees and paths, not models.

Mesh axes: `data` replicates parameters, `fsdp` shards them and their optimizer state, `tensor`
splits heads and hidden units, `context` splits sequences. Stacked layers lead with an unsharded
axis. Optimizer state follows the parameter whose path ends its own.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vxlpro_jax.config.schema import MeshConfig
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError
