"""Evaluations of trained models, one file per family."""
