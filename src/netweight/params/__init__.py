"""What a parameter is, from its name: layer, role, group, family; ties, layouts, and the pairing of models."""
