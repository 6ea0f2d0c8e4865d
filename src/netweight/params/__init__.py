"""Floor 3: what a parameter's name says (layer, role, group, family), ties, and the alignment of models."""
