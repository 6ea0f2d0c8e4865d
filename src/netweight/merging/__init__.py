"""Merging: what each method does with one parameter's inputs, coefficients, recipes, and where the results lie in the
output's files.
"""
