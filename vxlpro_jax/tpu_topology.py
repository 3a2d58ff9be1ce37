"""TPUs that need not be there, to compile for: `pip install -e '.[tpu]'` brings their compiler."""

import os

import jax
from jax.experimental import topologies

from vxlpro_jax.utils.errors import InputError

# Without these the compiler looks for a TPU, and only one process at a time may load it.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def topology_devices(name: str, *, num_slices: int = 1) -> list[jax.Device]:
    """The devices of a topology such as `v5e:16x16`, in as many slices.

    Raises:
        InputError: there is no such topology, or no compiler for it.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    options = {"num_slices": num_slices} if num_slices > 1 else {}
    if name.endswith(":1x1"):  # A host of its own; by default hosts have four chips.
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except Exception as error:  # The plugin's errors have no common type.
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"Topology {name!r} cannot be described: {reason}. The TPU compiler comes with"
            " pip install -e '.[tpu]'; shapes are those of real slices, v5e:16x16 or v5p:4x4x4."
        ) from error
