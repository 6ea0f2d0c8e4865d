"""Recipes: mergekit's YAML read into frozen values, and written again."""
