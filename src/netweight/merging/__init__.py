"""Merging: methods, their settings, weights that follow from norms, and recipes; one parameter at a time."""
