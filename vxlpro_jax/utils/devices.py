"""The devices of this process."""

import os

import jax

from vxlpro_jax.utils.errors import InputError


def check_devices() -> None:
    """Lets JAX look for its devices, so that a platform that is missing is noticed here.

    Raises:
        InputError: the platform that JAX_PLATFORMS names has no usable device.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # An assertion fails if there is no GPU at all.
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({str(error)[:200]})" if str(error) else ""
        raise InputError(
            f"JAX finds no device of JAX_PLATFORMS={platforms!r}{reason}: install the driver and"
            " the JAX of that platform, or set JAX_PLATFORMS=cpu."
        ) from error
