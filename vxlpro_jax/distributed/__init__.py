"""Runs of several processes: joining, heartbeats, preemption and failures."""
