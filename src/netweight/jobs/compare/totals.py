"""Sums over many parameters of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum, isfinite, nan, sqrt
from typing import Any, Protocol, TypeVar

from netweight.measures.change import sqnr_db
from netweight.params.role import Parameter
from netweight.statistics.pairs import PairStatistics

__all__ = ["by_block", "totals_of"]


class _Placed(Protocol):
    @property
    def parameter(self) -> Parameter: ...


P = TypeVar("P", bound=_Placed)


def by_block(parameters: Iterable[P]) -> dict[str, list[P]]:
    """By block in the order of blocks, after the embeddings and before the head and the rest."""
    members: dict[tuple[int, str, int, str], list[P]] = {}
    places = {"embed": 0, "layer": 1, "lm_head": 2}
    for entry in parameters:
        p = entry.parameter
        key = (places.get(p.group, 3), p.stack, -1 if p.layer is None else p.layer, p.layer_group or p.group)
        members.setdefault(key, []).append(entry)
    groups: dict[str, list[P]] = {}
    for key in sorted(members):
        groups.setdefault(key[3], []).extend(members[key])
    return groups


def totals_of(parts: Iterable[PairStatistics | None]) -> dict[str, Any]:
    """Sums over parameters; NaN where there is nothing, a norm is zero, or a sum is beyond float64."""
    measured = [p for p in parts if p is not None]
    n = sum(p.n for p in measured)
    norm_a, norm_b, distance = (
        sqrt(_sum(values))
        for values in ([p.square_a for p in measured], [p.square_b for p in measured], [p.square_d for p in measured])
    )
    cosine = nan
    if norm_a and norm_b:
        same = isfinite(norm_a) and all(p.identical for p in measured)
        cosine = 1.0 if same else _sum(p.dot for p in measured) / norm_a / norm_b
        cosine = max(-1.0, min(1.0, cosine)) if isfinite(cosine) else nan
    return {
        "parameters": len(measured),
        "elements": n,
        "l2_distance": distance if n else nan,
        "relative_l2_distance": distance / norm_a if norm_a else nan,
        "sqnr_db": sqnr_db(norm_a * norm_a, distance * distance) if n else nan,
        "cosine_similarity": cosine,
        "l2_norm_ratio": norm_b / norm_a if norm_a else nan,
        "max_absolute_difference": max((p.maxabs for p in measured if p.n), default=nan),
        "identical_percentage": 100 * sum(p.n_identical for p in measured) / n if n else nan,
        "significant_change_percentage": 100 * sum(p.n_significant for p in measured) / n if n else nan,
        "sign_flip_percentage": 100 * sum(p.n_flipped for p in measured) / n if n else nan,
        "n_nonfinite": sum(p.n_nonfinite for p in measured),
    }


def _sum(values: Iterable[float]) -> float:
    """NaN where the sum is beyond float64, or a part is."""
    parts = list(values)
    try:
        return fsum(parts) if all(isfinite(v) for v in parts) else nan
    except OverflowError:
        return nan
