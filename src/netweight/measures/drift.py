"""Drift: what a fine-tune changed in one parameter, from the statistics of fine-tuned - base.

Formulas: population moments; quantiles by numpy's "linear" rule; l2 = sqrt(sum x^2), l1 = sum abs(x).
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from netweight.columns import Column
from netweight.measures.measure import Measure
from netweight.statistics.difference import PROBABILITIES, Distribution

__all__ = ["COLUMNS", "MEASURE", "NEEDS", "QUANTILES", "derive"]

NEEDS = frozenset({"difference.moments", "difference.order", "base.norm"})

QUANTILES = tuple(f"q{round(100 * p)}" for p in PROBABILITIES)
"""The quantiles' column names: q0, q1, q5 ... q100."""

COLUMNS = (
    Column("l2", "", "sqrt(sum x^2) of the differences x", "number"),
    Column("l1", "", "sum abs(x)", "number"),
    Column("maxabs", "", "max abs(x)", "number"),
    Column("mean", "", "mean of x", "number"),
    Column("std", "", "population standard deviation of x", "number"),
    Column("skew", "", "m3 / m2^1.5; 0 where m2 = 0", "number"),
    Column("kurtosis_excess", "", "m4 / m2^2 - 3; 0 where m2 = 0", "number"),
    *(Column(q, "", f"quantile of x at {q[1:]}%, linear between order statistics", "number") for q in QUANTILES),
    Column("relative_l2", "", "l2 over the l2 of the base's parameter; empty where that is 0", "number"),
    Column("base_l2", "", "l2 of the base's finite values", "number"),
    Column("unchanged_percentage", "%", "share of differences that are exactly zero", "number"),
    Column("n_nan", "elements", "differences that are NaN: left out of the statistics", "integer"),
    Column("n_inf", "elements", "differences that are infinite: left out of the statistics", "integer"),
    Column("flag", "", "what to know of the row: non-finite values, empty, sums beyond float64", "text"),
)


def _flag(differences: Distribution) -> str:
    flags = []
    if differences.n == 0:
        flags.append("empty")
    elif differences.n_nan or differences.n_inf:
        flags.append("non-finite" if differences.moments.n else "nothing finite")
    m = differences.moments
    if m.n and not all(isfinite(v) for v in (m.square_sum, m.l1, m.m3, m.m4)):
        flags.append("overflow")
    return " ".join(flags)


def derive(differences: Distribution, base_l2: float) -> dict[str, Any]:
    """{column: value} of one parameter; None where nothing is defined (no finite value, a base of norm 0, overflow)."""
    m = differences.moments
    shape = {"mean": m.average, "std": m.std, "skew": m.skew, "kurtosis_excess": m.kurtosis_excess}
    row: dict[str, Any] = {"l2": m.l2, "l1": m.l1, "maxabs": m.maxabs, **shape}
    row |= dict(zip(QUANTILES, differences.quantiles or (None,) * len(QUANTILES), strict=True))
    row |= {
        "relative_l2": m.l2 / base_l2 if base_l2 and isfinite(base_l2) else None,
        "base_l2": base_l2,
        "unchanged_percentage": 100 * differences.n_zero / differences.n if differences.n else None,
        "n_nan": differences.n_nan,
        "n_inf": differences.n_inf,
        "flag": _flag(differences),
    }
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()}


MEASURE = Measure(
    name="drift",
    doc="What a fine-tune changed in one parameter.",
    needs=NEEDS,
    columns=COLUMNS,
    derive=derive,
)
