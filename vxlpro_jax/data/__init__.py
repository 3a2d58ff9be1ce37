"""Samples, video, text and batches; imports nothing of ours but `config`."""
