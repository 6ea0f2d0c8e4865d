"""Histogram: how a matrix's elements are distributed, for a picture; its counts are exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.measures.measure import Measure
from netweight.statistics.values import HISTOGRAM, Values

if TYPE_CHECKING:
    from netweight.statistics.histogram import Histogram

__all__ = ["COLUMNS", "MEASURE", "derive", "fields_of"]

COLUMNS = (
    Column(
        "edges", "", "ascending: min, 61 within 5 std of the mean, max; between bfloat16 values for float32", "numbers"
    ),
    Column("counts", "elements", "finite elements between neighbouring edges", "integers"),
)


def fields_of(histogram: Histogram) -> dict[str, Any]:
    """{column: value}; lists are empty where nothing is finite."""
    return {"edges": list(histogram.edges), "counts": list(histogram.counts)}


def derive(values: Values) -> dict[str, Any]:
    """The fields of one matrix."""
    assert values.histogram is not None  # noqa: S101 - it was asked for
    return fields_of(values.histogram)


MEASURE = Measure(
    name="histogram",
    doc="Counts of the elements, for a picture. Not one of all.",
    needs=frozenset({HISTOGRAM}),
    columns=COLUMNS,
    derive=derive,
    takes=("values",),
)
