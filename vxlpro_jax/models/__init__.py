"""Linen modules: parameters and wiring only."""
