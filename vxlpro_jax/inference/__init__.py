"""Answers questions about videos with a trained model."""
