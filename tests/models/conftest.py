"""Fixtures of the parity tests: float64, a small configuration and its oracle."""

import jax
import pytest
from torch_reference.bridge import params_of, randomized

from vxlpro_jax.config.schema import DecoderConfig, ModelConfig, VisionConfig


@pytest.fixture(autouse=True)
def float64():
    """Parity is told apart from luck in float64; float32 tests cast by hand."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    """Grouped heads, an 8x8 grid with two pixels left over, widths that are all different."""
    return ModelConfig(
        vision=VisionConfig(
            width=64, depth=2, num_heads=4, mlp_width=88, image_size=66, patch_size=8
        ),
        decoder=DecoderConfig(
            vocab_size=211, width=48, depth=2, num_heads=6, num_kv_heads=2, mlp_width=104
        ),
    )


@pytest.fixture(scope="session")
def oracle(config):
    return randomized(config)


@pytest.fixture(scope="session")
def params(oracle):
    return params_of(oracle)
