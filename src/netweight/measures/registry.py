"""Measures by name. A measure is a pure function from statistics to declared columns; adding one is a file and a
row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netweight.columns import Column
from netweight.errors import OptionError, did_you_mean
from netweight.measures import basic_stats, change, drift, quantization, sparsity, spectral, tail

__all__ = ["MEASURES", "Measure", "find", "needed"]


@dataclass(frozen=True)
class Measure:
    """`needs` names the statistics that must be gathered; `derive` makes {column name: value} of them.

    `takes`, for the measures of a scan: which of "values", "channels" and "spectrum" `derive` is given, in order.
    """

    name: str
    doc: str
    needs: frozenset[str]
    columns: tuple[Column, ...]
    derive: Callable[..., Mapping[str, Any]]
    takes: tuple[str, ...] = ()


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in [
        Measure("change", "How far a parameter is from another's.", change.NEEDS, change.COLUMNS, change.derive),
        Measure("drift", "What a fine-tune changed in one parameter.", drift.NEEDS, drift.COLUMNS, drift.derive),
        Measure(
            "basic_stats",
            "Moments, norms and quantiles of the elements.",
            basic_stats.NEEDS,
            basic_stats.COLUMNS,
            basic_stats.derive,
            ("values",),
        ),
        Measure(
            "quantization",
            "What int8 and int4 would lose, and the outliers that make it hard.",
            quantization.NEEDS,
            quantization.COLUMNS,
            quantization.derive,
            ("values", "channels"),
        ),
        Measure(
            "sparsity",
            "Zeros, dead rows and columns, 2:4 structure.",
            sparsity.NEEDS,
            sparsity.COLUMNS,
            sparsity.derive,
            ("values", "channels"),
        ),
        Measure(
            "spectral",
            "Condition number, ranks and norms, from the singular values.",
            spectral.NEEDS,
            spectral.COLUMNS,
            spectral.derive,
            ("spectrum",),
        ),
        Measure(
            "tail",
            "The power law in a spectrum, with WeightWatcher's columns.",
            tail.NEEDS,
            tail.COLUMNS,
            tail.derive,
            ("spectrum",),
        ),
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
