"""Turns records into batches: sampling, packing, bucketing and the iterator over them."""
