"""One file per family of merge methods, each with its paper and formula; `registry.py` lists them all."""
