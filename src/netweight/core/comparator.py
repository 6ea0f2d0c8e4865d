"""`from netweight.core.comparator import find_most_changed_layers`, as scripts for weightscope have it."""

from netweight.jobs.compare.result import find_most_changed_layers

__all__ = ["find_most_changed_layers"]
