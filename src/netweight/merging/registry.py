"""Merge methods by name. A method is a course over one parameter and a row that declares it; adding one is a file in
`methods/` and its row here.
"""

from __future__ import annotations

from netweight.errors import OptionError, did_you_mean, printable
from netweight.merging.method import Method
from netweight.merging.methods import (
    arcee_fusion,
    breadcrumbs,
    dare,
    della,
    linear,
    means,
    model_stock,
    nearswap,
    sce,
    slerp,
    ties,
)

__all__ = ["METHODS", "find"]

METHODS: dict[str, Method] = {
    method.name: method
    for module in (linear, ties, dare, della, breadcrumbs, sce, slerp, means, model_stock, nearswap, arcee_fusion)
    for method in module.METHODS
}
"""Every merge method."""


def find(name: str) -> Method:
    """The method of this name; raises OptionError where there is none."""
    if name not in METHODS:
        near = did_you_mean(name.lower().replace("-", "_"), METHODS)
        raise OptionError(f"no merge method '{printable(name, 60)}'{near}; known: {', '.join(METHODS)}")
    return METHODS[name]
