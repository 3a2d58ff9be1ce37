"""Precomputed features of frozen encoders, which training reads instead of frames."""
