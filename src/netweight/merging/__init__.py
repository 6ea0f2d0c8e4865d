"""Merging: what each method does with one parameter's inputs, how weights follow from norms, and recipes."""
