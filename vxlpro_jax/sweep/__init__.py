"""Trains variants of a run, locally or on a cluster, and collects their results in one table."""
