"""Executors of the runs of a sweep: on this machine, under Slurm, or on GKE."""
