"""Experiment configs: functions that return an `ml_collections.ConfigDict`."""
