"""What a run can learn: one module for each objective, whose `OBJECTIVE` is found by its name."""
