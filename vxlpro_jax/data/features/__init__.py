"""Precomputed features of frozen parts, stored on disk and read instead of frames."""
