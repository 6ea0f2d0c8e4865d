"""Floor 1: one file per command; parse options, call one job, print."""
