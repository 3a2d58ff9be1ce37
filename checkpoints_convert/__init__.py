"""Converters between release-format PyTorch checkpoints and Orbax."""
