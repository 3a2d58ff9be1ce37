"""Describes TPUs and GPUs for which programs are compiled; they need not be attached.

The compilers come with `pip install -e '.[tpu]'` and `pip install -e '.[gpu]'`.
"""

import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies

from vxlpro_jax.utils import accelerators
from vxlpro_jax.utils.errors import InputError


class _Gpu(NamedTuple):
    """The properties of a GPU that its compiler needs.

    Attributes:
        kind: name, as in `jax.Device.device_kind`.
        major: major number of the compute capability; the minor number is 0.
        cores: number of streaming multiprocessors.
        fpus: number of float32 units per multiprocessor.
        shared: bytes of shared memory per multiprocessor; a block gets 1 KiB less.
        l2: bytes of the L2 cache.
        clock: clock rate in GHz.
    """

    kind: str
    major: int
    cores: int
    fpus: int
    shared: int
    l2: int
    clock: float


_KIB = 2**10

# SXM boards, from NVIDIA's architecture papers and CUDA's tables of compute capabilities.
_GPUS = {
    "h100": _Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 228 * _KIB, 50 * _KIB**2, 1.98),
    "h200": _Gpu("NVIDIA H200", 9, 132, 128, 228 * _KIB, 50 * _KIB**2, 1.98),
    "a100": _Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164 * _KIB, 40 * _KIB**2, 1.41),
    "a100-40": _Gpu("NVIDIA A100-SXM4-40GB", 8, 108, 64, 164 * _KIB, 40 * _KIB**2, 1.41),
}

# Without these the compiler looks for a TPU, and only one process may load it at a time.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def topology_devices(name: str, *, num_slices: int = 1) -> list[Any]:
    """Returns the devices of a topology such as `v5e:16x16` or `h100:8`.

    Args:
        name: name of accelerator and shape.
        num_slices: number of slices of that shape; 1 for GPUs.

    Raises:
        InputError: there is no such topology, or no compiler for it is installed.
    """
    of_kind = gpu_devices if name.partition(":")[0] in _GPUS else tpu_devices
    return of_kind(name, num_slices=num_slices)


def gpu_devices(topology: str, *, num_slices: int = 1) -> list[Any]:
    """Returns the devices of a topology such as `h100:8`, which has eight GPUs.

    Raises:
        InputError: there is no such topology, no compiler for it, or `num_slices` is not 1. The
            compiler does not distinguish hosts of GPUs.
    """
    name, colon, count = topology.partition(":")
    if name not in _GPUS or not re.fullmatch(r"[1-9]\d*", count if colon else "1"):
        raise InputError(
            f"Topology {topology!r}: name a GPU, one of {', '.join(_GPUS)}, and how many, for"
            " example h100:8."
        )
    if num_slices != 1:
        raise InputError(
            f"num_slices is {num_slices}, but the compiler does not distinguish hosts of GPUs:"
            f" set it to 1 and count the GPUs of all hosts, {name}:{num_slices * int(count or 1)}."
        )
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=describe(name),
            topology=f"1x1x{count or 1}",
        ).devices
    except Exception as error:  # The plugin's errors have no common type.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Topology {topology!r} cannot be described: {reason}. The GPU compiler comes with"
            " pip install -e '.[gpu]', on any machine with Linux."
        ) from error


def describe(name: str) -> str:
    """Describes a GPU of `accelerators.GPUS` as text of XLA's `GpuTargetConfigProto`."""
    gpu, memory = _GPUS[name], accelerators.GPUS[name]
    return f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: {gpu.major} }}
          core_count: {gpu.cores}
          fpus_per_core: {gpu.fpus}
          clock_rate_ghz: {gpu.clock}
          device_memory_size: {memory.hbm_bytes}
          memory_bandwidth: {memory.hbm_bandwidth:.0f}
          l2_cache_size: {gpu.l2}
          shared_memory_per_core: {gpu.shared}
          shared_memory_per_block: {48 * _KIB}
          shared_memory_per_block_optin: {gpu.shared - _KIB}
          registers_per_core_limit: {64 * _KIB}
          registers_per_block_limit: {64 * _KIB}
          threads_per_core_limit: 2048
          threads_per_block_limit: 1024
          threads_per_warp: 32
          thread_dim_limit_x: 1024
          thread_dim_limit_y: 1024
          thread_dim_limit_z: 64
          block_dim_limit_x: {2**31 - 1}
          block_dim_limit_y: {2**16 - 1}
          block_dim_limit_z: {2**16 - 1}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        device_description_str: "{gpu.kind}"
    """


def tpu_devices(name: str, *, num_slices: int = 1) -> list[Any]:
    """Returns the devices of a topology such as `v5e:16x16`, in `num_slices` slices.

    Raises:
        InputError: there is no such topology, or no compiler for it.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if name.endswith(":1x1"):  # A single chip is its own host; other hosts have four chips.
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except Exception as error:  # The plugin's errors have no common type.
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"Topology {name!r} cannot be described: {reason}. The TPU compiler comes with"
            " pip install -e '.[tpu]'; shapes are those of real slices, v5e:16x16 or v5p:4x4x4."
        ) from error
