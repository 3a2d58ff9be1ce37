"""Peak figures of accelerators, from the manufacturers' data sheets.

Units: FLOP/s of dense bfloat16 products, bytes, bytes/s.
"""

from typing import NamedTuple

from vxlpro_jax.utils.errors import InputError


class Accelerator(NamedTuple):
    """One device, as counted by JAX.

    Attributes:
        flops: FLOP/s of bfloat16 products.
        hbm_bytes: bytes of memory.
        hbm_bandwidth: bytes/s of the memory.
        network_bandwidth: bytes/s to the other devices of its slice, over all links, one way.
        share: share of the memory that a process may use.
        clock: cycles per second of a TPU's cores; 0 if unknown.
    """

    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    network_bandwidth: float
    share: float = 1.0
    clock: float = 0.0

    @property
    def usable_bytes(self) -> int:
        """The number of bytes that a process may use."""
        return int(self.share * self.hbm_bytes)


_GIB = 2**30

# https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e. Links: 1,600, 4,800 and 3,584 Gbit/s per
# chip, both directions together. The clock follows from the FLOP/s, at 2^17, 2^18 and 2^19 FLOPs
# per cycle of the matrix units (4 and 8 of 128 x 128, 4 of 256 x 256).
TPUS = {
    "v5e": Accelerator(197e12, 16 * _GIB, 819e9, 100e9, clock=1.5e9),
    "v5p": Accelerator(459e12, 95 * _GIB, 2765e9, 300e9, clock=1.75e9),
    "v6e": Accelerator(918e12, 32 * _GIB, 1640e9, 224e9, clock=1.75e9),
}

# https://resources.nvidia.com/en-us-tensor-core (H100, H200) and the A100 data sheet: SXM boards,
# NVLink one way; memory as reported by the driver. The share is that of launch/xla_flags.env.
_GPU_SHARE = 0.92
GPUS = {
    "h100": Accelerator(989e12, 84_942_979_072, 3350e9, 450e9, _GPU_SHARE),
    "h200": Accelerator(989e12, 151_397_597_184, 4800e9, 450e9, _GPU_SHARE),
    "a100": Accelerator(312e12, 85_100_068_864, 2039e9, 300e9, _GPU_SHARE),
    "a100-40": Accelerator(312e12, 42_331_013_120, 1555e9, 300e9, _GPU_SHARE),
}

# Names as in `jax.Device.device_kind`, longer ones first.
_KINDS = {
    "TPU v5 lite": TPUS["v5e"],
    "TPU v5": TPUS["v5p"],
    "TPU v6 lite": TPUS["v6e"],
    "H100": GPUS["h100"],
    "H200": GPUS["h200"],
    "A100-SXM4-40GB": GPUS["a100-40"],
    "A100": GPUS["a100"],
}


def accelerator_of_kind(kind: str) -> Accelerator | None:
    """Finds a device by its `jax.Device.device_kind`, `NVIDIA H100 80GB HBM3`; None if unknown."""
    return next((device for name, device in _KINDS.items() if name in kind), None)


def accelerator_of_topology(topology: str) -> Accelerator:
    """Finds a device by the name of a topology, `v5p:4x4x4` or `h100:8`.

    Raises:
        InputError: the name does not begin with a known accelerator.
    """
    known, name = TPUS | GPUS, topology.partition(":")[0]
    if name not in known:
        raise InputError(
            f"Topology {topology!r}: name an accelerator, one of {', '.join(known)}, and a shape,"
            " for example v5p:4x4x4 or h100:8."
        )
    return known[name]
