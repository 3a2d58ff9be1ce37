"""Samples, video, text and batches; of this package's other modules it imports only `config`."""
