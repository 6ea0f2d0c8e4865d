"""What a parameter is, from its name: layer, role, group, family; ties, fused parts, and the pairing of models."""
