"""Turns records into batches: sampling, packing, bucketing and iteration."""
