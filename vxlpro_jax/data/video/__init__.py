"""Decodes videos and pictures into frames."""
