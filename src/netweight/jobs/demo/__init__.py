"""`demo`: small models, and the other commands run on them."""
