"""Checks the devices of this process."""

import os

import jax

from vxlpro_jax.utils.errors import InputError


def check_devices() -> None:
    """Makes JAX find its devices now, so that a missing platform is reported here.

    Raises:
        InputError: the platform in JAX_PLATFORMS has no usable device.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # Without any GPU, an assertion fails.
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({str(error)[:200]})" if str(error) else ""
        raise InputError(
            f"JAX finds no device of JAX_PLATFORMS={platforms!r}{reason}: install the driver and"
            " the JAX of that platform, or set JAX_PLATFORMS=cpu."
        ) from error
