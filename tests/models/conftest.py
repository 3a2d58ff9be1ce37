"""Fixtures of the parity tests: float64, a small config and the reference model."""

import pytest

from vxlpro_jax.config.schema import DecoderConfig, ModelConfig, VisionConfig


@pytest.fixture(autouse=True)
def in_float64(float64):
    """Computes every test of this folder in float64."""


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    """A config with grouped heads, an 8x8 grid with two pixels left over, and distinct widths."""
    return ModelConfig(
        vision=VisionConfig(
            width=64, depth=2, num_heads=4, mlp_width=88, image_size=66, patch_size=8
        ),
        decoder=DecoderConfig(
            vocab_size=211, width=48, depth=2, num_heads=6, num_kv_heads=2, mlp_width=104
        ),
    )


@pytest.fixture(scope="session")
def bridge():
    """The torch reference; tests that use it are skipped if torch is not installed."""
    return pytest.importorskip("torch_reference.bridge")


@pytest.fixture(scope="session")
def oracle(config, bridge):
    return bridge.randomized(config)


@pytest.fixture(scope="session")
def params(oracle, bridge):
    return bridge.params_of(oracle)
