"""Tests a platform without a device."""

import jax
import pytest

from vxlpro_jax.utils.devices import check_devices
from vxlpro_jax.utils.errors import InputError


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize backend 'tpu': no chip")]
)
def test_a_missing_device_is_a_sentence(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(InputError, match="no device of JAX_PLATFORMS='cuda'") as caught:
        check_devices()
    assert str(error) in str(caught.value)


def test_a_present_device_is_nothing_to_say():
    check_devices()
