"""`merge`: one model of several, by a recipe."""

from netweight.jobs.merge.request import Weights

__all__ = ["Weights"]
