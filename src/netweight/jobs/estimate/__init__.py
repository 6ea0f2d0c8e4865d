"""`estimate`: what a job would read, hold and compute, and how long it would take."""
