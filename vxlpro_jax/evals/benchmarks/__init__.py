"""Published benchmarks of video understanding, one file per family."""
