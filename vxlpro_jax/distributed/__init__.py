"""Several processes as one run: joining, heartbeats, preemption and failures."""
