"""Merge methods by name. A method is a course over one parameter and a row that declares it; adding one is a file in
`methods/`, which ends with its `METHODS`, and the file's name here.
"""

from __future__ import annotations

from importlib import import_module

from netweight.errors import OptionError, did_you_mean, printable
from netweight.merging.method import Method

__all__ = ["METHODS", "find"]

_FILES = (
    "linear",
    "ties",
    "dare",
    "della",
    "breadcrumbs",
    "sce",
    "slerp",
    "means",
    "model_stock",
    "nearswap",
    "arcee_fusion",
    "ram",
)

METHODS: dict[str, Method] = {
    method.name: method for file in _FILES for method in import_module(f"netweight.merging.methods.{file}").METHODS
}
"""Every merge method, in the order of its file above."""

_ELSEWHERE = {
    "average": "linear",
    "avg": "linear",
    "mean": "linear",
    "soup": "linear",
    "model-soup": "linear",
    "lerp": "linear",
    "weighted": "linear",
    "task-vectors": "task_arithmetic",
    "dare": "dare_ties",
    "stock": "model_stock",
    "frankenmerge": "passthrough",
    "stack": "passthrough",
}
"""Words that people know from elsewhere."""


def find(name: str) -> Method:
    """The method of this name; raises OptionError where there is none."""
    if name not in METHODS:
        near = did_you_mean(name, METHODS, _ELSEWHERE)
        raise OptionError(f"no merge method '{printable(name, 60)}'{near}; known: {', '.join(METHODS)}")
    return METHODS[name]
