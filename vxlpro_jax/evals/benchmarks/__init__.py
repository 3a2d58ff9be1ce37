"""Published benchmarks of video understanding, one file a family."""
