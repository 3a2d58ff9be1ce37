"""Measures of trained models, one file a family."""
