"""`structure`: what a model is made of, and what pruning left of its base."""
