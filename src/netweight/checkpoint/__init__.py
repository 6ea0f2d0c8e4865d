"""Floor 4: checkpoint formats opened lazily as ordered mappings of names to tensors."""
