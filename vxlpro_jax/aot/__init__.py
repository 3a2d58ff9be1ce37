"""Ahead-of-time compilation: whether a program fits hardware that is not attached, and its cost."""
