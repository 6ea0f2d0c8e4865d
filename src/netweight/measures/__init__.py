"""Measures: pure functions from statistics to declared columns, their registry, and the health that judges them."""
