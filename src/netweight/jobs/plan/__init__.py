"""`plan`: a type for every tensor, so that a model of a given size loses least."""
