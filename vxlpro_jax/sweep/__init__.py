"""Variants of a training, run wherever there are machines, and one table of what they measured."""
