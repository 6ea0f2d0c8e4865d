"""Basic statistics of a matrix's elements.

Population moments; quantiles by numpy's "linear" rule; NaN and infinities are counted and left out of everything but
`elements`, `zeros_percentage` and `sparsity`, which are of all elements.
"""

from __future__ import annotations

from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.measures.drift import QUANTILES as NAMES
from netweight.measures.measure import Measure
from netweight.statistics.values import MOMENTS, QUANTILES, SPARSITY, THRESHOLDS, Values

if TYPE_CHECKING:
    from netweight.statistics.moments import Moments

__all__ = ["COLUMNS", "MEASURE", "NEEDS", "derive", "flag", "percentage", "share"]

NEEDS = frozenset({MOMENTS, QUANTILES, SPARSITY})

COLUMNS = (
    Column("elements", "elements", "number of elements n", "integer"),
    Column("mean", "", "mean of x", "number"),
    Column("std", "", "population standard deviation, sqrt(var)", "number"),
    Column("var", "", "population variance, mean (x - mean)^2", "number"),
    Column("min", "", "least element", "number"),
    Column("max", "", "largest element", "number"),
    Column("median", "", "quantile at 50%", "number"),
    Column("zeros_percentage", "%", "100 #(x = 0) / n", "number"),
    Column("sparsity", "", "#(abs(x) <= 1e-8) / n", "number"),
    Column("l2", "", "sqrt(sum x^2)", "number"),
    Column("l1", "", "sum abs(x)", "number"),
    Column("maxabs", "", "max abs(x)", "number"),
    Column("mean_abs", "", "mean of abs(x)", "number"),
    Column("skew", "", "m3 / m2^1.5; 0 where m2 = 0", "number"),
    Column("kurtosis_excess", "", "m4 / m2^2 - 3; 0 where m2 = 0", "number"),
    *(Column(q, "", f"quantile of x at {q[1:]}%, linear between order statistics", "number") for q in NAMES),
    Column(
        "distinct_values",
        "",
        "different finite values; empty for large tensors with values beyond their leading 16 bits",
        "integer",
    ),
    Column("n_nan", "elements", "elements that are NaN: left out of the statistics", "integer"),
    Column("n_inf", "elements", "elements that are infinite: left out of the statistics", "integer"),
    Column("flag", "", "what to know of the row: empty, non-finite values, sums beyond float64", "text"),
)


def flag(values: Values) -> str:
    """What to know of a matrix's statistics: empty, non-finite, nothing finite, overflow; "" for nothing."""
    m = values.moments
    flags = []
    if not values.n:
        flags.append("empty")
    elif values.n_nan or values.n_inf:
        flags.append("non-finite" if m.n else "nothing finite")
    if m.n and not all(isfinite(v) for v in (m.square_sum, m.l1, m.m3, m.m4)):
        flags.append("overflow")
    return " ".join(flags)


def share(count: int, n: int) -> float:
    """count / n, nan where n is 0."""
    return count / n if n else nan


def percentage(count: int, n: int) -> float:
    """100 count / n, nan where n is 0."""
    return 100 * count / n if n else nan


def _variance(moments: Moments) -> float:
    if not moments.n:
        return nan
    return 0.0 if moments.constant else moments.m2 / moments.n


def derive(values: Values) -> dict[str, Any]:
    """{column: value} of one matrix; nan where nothing is finite, inf where a sum is beyond float64."""
    m = values.moments
    quantiles = dict(zip(NAMES, values.quantiles or (nan,) * len(NAMES), strict=True))
    return {
        "elements": values.n,
        "mean": m.average,
        "std": m.std,
        "var": _variance(m),
        "min": m.minimum if m.n else nan,
        "max": m.maximum if m.n else nan,
        "median": quantiles["q50"],
        "zeros_percentage": percentage(values.n_zero, values.n),
        "sparsity": share(values.at_most[THRESHOLDS[1]], values.n),
        "l2": m.l2 if m.n else nan,
        "l1": m.l1 if m.n else nan,
        "maxabs": m.maxabs if m.n else nan,
        "mean_abs": m.l1 / m.n if m.n else nan,
        "skew": m.skew,
        "kurtosis_excess": m.kurtosis_excess,
        **quantiles,
        "distinct_values": values.distinct,
        "n_nan": values.n_nan,
        "n_inf": values.n_inf,
        "flag": flag(values),
    }


MEASURE = Measure(
    name="basic_stats",
    doc="Moments, norms and quantiles of the elements.",
    needs=NEEDS,
    columns=COLUMNS,
    derive=derive,
    takes=("values",),
)
