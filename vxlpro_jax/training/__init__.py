"""Training: state, step, objectives, optimizer, checkpoints of a run, and its measurements."""
