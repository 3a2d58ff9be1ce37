"""Where the runs of a sweep execute: on this machine, under Slurm, or on GKE."""
