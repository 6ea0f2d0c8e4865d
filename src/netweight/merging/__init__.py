"""Merge methods, their settings, weights that follow from norms, and recipes: what is done with one parameter's inputs.

"""
