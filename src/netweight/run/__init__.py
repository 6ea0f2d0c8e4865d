"""Floor 3: plan, execute, threads, journal; knows nothing of what a task computes."""
