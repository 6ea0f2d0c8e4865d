"""Floor 4: pure functions from statistics to declared columns, and their registry."""
