"""What `compare` says of two models by the measures of a scan: ratios and differences of their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite, isinf, nan
from typing import Any

from netweight.columns import Column
from netweight.measures.change import number_of
from netweight.measures.registry import find

__all__ = ["between_columns", "derive_between"]


def between_columns(methods: Sequence[str]) -> tuple[Column, ...]:
    """The columns that `derive_between` yields for these methods."""
    columns = []
    for method in methods:
        compared = find(method).compared
        for name in compared:
            field, how = _parted(name)
            doc = f"{field} of b / that of a" if how == "ratio" else f"{field} of b - that of a"
            columns.append(Column(name, "", doc, "number"))
        if compared:
            doc = "why some of these are not known; empty where all are"
            columns.append(Column(f"{method}_diff_reason", "", doc, "text"))
    return tuple(columns)


def derive_between(sides: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """{field: value} from `sides`, the scan measures {method: {field: value}} of a and of b: b / a, or b - a.

    NaN where either is not known or the two have no ratio (0 / 0, inf / inf), with the reason beside it.
    """
    fields: dict[str, Any] = {}
    for method in methods:
        compared = find(method).compared
        if not compared:
            continue
        a, b = (side.get(method) for side in sides)
        row = {}
        for name in compared:
            field, how = _parted(name)
            row[name] = _between(number_of(a, field), number_of(b, field), how)
        fields |= row
        fields[f"{method}_diff_reason"] = _why(row, a, b)
    return fields


def _parted(name: str) -> tuple[str, str]:
    """`stable_rank_diff` is ("stable_rank", "diff")."""
    field, _, how = name.rpartition("_")
    return field, how


def _between(a: float, b: float, how: str) -> float:
    if how == "diff":
        return b - a  # inf - inf is NaN
    if a == 0:
        return inf if b > 0 else nan
    return nan if isinf(a) and isinf(b) else b / a


def _why(row: Mapping[str, float], a: Any, b: Any) -> str:
    if all(isfinite(v) for v in row.values()):
        return ""
    reasons = []
    for label, fields in (("a", a), ("b", b)):
        if not isinstance(fields, Mapping):
            reasons.append(f"{label}: not measured")
            continue
        said = sorted({str(v) for k, v in fields.items() if k.endswith("_reason") and v})
        reasons += [f"{label}: {reason}" for reason in said]
    missing = [name for name, value in row.items() if not isfinite(value)]
    return "; ".join(reasons) if reasons else f"not defined for these values: {', '.join(missing)}"
