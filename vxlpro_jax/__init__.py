"""Video-XL-Pro in JAX/Flax: train, convert and run long-video language models."""

__version__ = "0.1.0"
