"""Measures by name. A measure is a pure function from statistics to declared columns; adding one is a file and a
row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netweight.errors import OptionError, did_you_mean
from netweight.measures import drift
from netweight.output.table import Column

__all__ = ["MEASURES", "Measure", "find", "needed"]


@dataclass(frozen=True)
class Measure:
    """`needs` names the statistics that must be gathered; `derive` makes {column name: value} of them."""

    name: str
    doc: str
    needs: frozenset[str]
    columns: tuple[Column, ...]
    derive: Callable[..., Mapping[str, Any]]


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in [
        Measure("drift", "What a fine-tune changed in one parameter.", drift.NEEDS, drift.COLUMNS, drift.derive),
    ]
}
"""Every measure."""


def find(name: str) -> Measure:
    """The measure of this name; raises OptionError where there is none."""
    if name not in MEASURES:
        raise OptionError(f"no measure {name!r}{did_you_mean(name, MEASURES)}; known: {', '.join(MEASURES)}")
    return MEASURES[name]


def needed(measures: Iterable[Measure]) -> frozenset[str]:
    """The union of the statistics that these measures need, so that one pass serves them all."""
    return frozenset().union(*(m.needs for m in measures))
