"""Change: how far one parameter of a model B is from the same one of a model A, from the weights themselves.

d = b - a, element by element, over the pairs that are finite. Where there are no weights, what two scans' numbers tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite, isnan, log10, nan, sqrt
from typing import Any

from netweight.columns import Column
from netweight.measures.measure import Measure
from netweight.statistics.pairs import PairStatistics

__all__ = [
    "ADAPTED",
    "COLUMNS",
    "FROZEN",
    "MEASURE",
    "NEEDS",
    "change_score",
    "derive",
    "derive_from_summaries",
    "is_adapted",
    "is_frozen",
    "number_of",
    "sqnr_db",
    "without_comparison",
]

NEEDS = frozenset({"pairs"})

FROZEN, ADAPTED = 0.01, 0.1
"""A norm ratio within 1 +- FROZEN is called frozen, one beyond 1 +- ADAPTED heavily adapted: empirical."""

COLUMNS = (
    Column("comparable", "", "both models hold it with one shape and float types, and it could be read", "boolean"),
    Column("comparable_reason", "", "why it was not compared, or not from the weights", "text"),
    Column("l2_distance", "", "sqrt(sum d^2), d = b - a", "number"),
    Column("relative_l2_distance", "", "l2_distance over the norm of a; undefined where that is 0", "number"),
    Column("sqnr_db", "dB", "10 log10(sum a^2 / sum d^2); infinite without a change", "number"),
    Column("cosine_similarity", "", "<a, b> / (norm a * norm b); undefined where a norm is 0", "number"),
    Column("mean_absolute_difference", "", "mean abs(d)", "number"),
    Column("max_absolute_difference", "", "max abs(d)", "number"),
    Column("significant_change_percentage", "%", "share of abs(d) / (abs(a) + 1e-10) > 0.01", "number"),
    Column("difference_stats.mean", "", "mean of d", "number"),
    Column("difference_stats.std", "", "population standard deviation of d", "number"),
    Column("difference_stats.min", "", "least d", "number"),
    Column("difference_stats.max", "", "greatest d", "number"),
    Column("mean_diff", "", "mean b - mean a", "number"),
    Column("std_diff", "", "std b - std a", "number"),
    Column("l2_norm_ratio", "", "norm b / norm a; undefined where norm a is 0", "number"),
    Column("max_abs_change", "", "max abs(d): the same as max_absolute_difference", "number"),
    Column("identical_percentage", "%", "share of b == a", "number"),
    Column("sign_flip_percentage", "%", "share of a and b of opposite signs, neither zero", "number"),
    Column(
        "clipped_percentage",
        "%",
        "share of a beyond what b's codes can say, by more than half of the last step; of tensors of more than 2^17"
        " elements 16,384 of every 2^21 are looked at; undefined where b is not quantised, or by codebooks",
        "number",
    ),
    Column(
        "column_overlap",
        "",
        "of two updates of adapters: mean squared cosine of the principal angles between their column spaces, 1 where"
        " one contains the other; undefined for other parameters",
        "number",
    ),
    Column("row_overlap", "", "the same of their row spaces", "number"),
    Column("n_nonfinite", "elements", "a, b or d is NaN or infinite: left out of all else", "integer"),
    Column(
        "change_score",
        "",
        "10 abs(mean_diff) + 10 abs(std_diff) + abs(l2_norm_ratio - 1), the last 1 where only a's norm is 0",
        "number",
    ),
    Column("flag", "", "what to know of the row: non-finite values, empty, zero norms, sums beyond float64", "text"),
)


def derive(pairs: PairStatistics) -> dict[str, Any]:
    """{field: value} of one parameter; NaN where undefined, and then `flag` says why. `clipped_percentage` is there
    where b's codes have ends.
    """
    n = pairs.n
    norm_a, norm_b = sqrt(pairs.square_a), sqrt(pairs.square_b)
    distance = sqrt(pairs.square_d)
    ratio = norm_b / norm_a if norm_a else nan
    row: dict[str, Any] = {
        "comparable": True,
        "comparable_reason": "",
        "l2_distance": distance if n else nan,
        "relative_l2_distance": distance / norm_a if norm_a else nan,
        "sqnr_db": sqnr_db(pairs.square_a, pairs.square_d) if n else nan,
        "cosine_similarity": _cosine(pairs, norm_a, norm_b),
        "mean_absolute_difference": pairs.absolute / n if n else nan,
        "max_absolute_difference": pairs.maxabs if n else nan,
        "significant_change_percentage": 100 * pairs.n_significant / n if n else nan,
        "difference_stats": {
            "mean": pairs.mean_d if n else nan,
            "std": sqrt(pairs.m2_d / n) if n else nan,
            "min": pairs.minimum + 0.0 if n else nan,  # a zero of either sign is 0
            "max": pairs.maximum + 0.0 if n else nan,
        },
        "mean_diff": pairs.mean_diff,
        "std_diff": pairs.std_diff,
        "l2_norm_ratio": ratio,
        "max_abs_change": pairs.maxabs if n else nan,
        "identical_percentage": 100 * pairs.n_identical / n if n else nan,
        "sign_flip_percentage": 100 * pairs.n_flipped / n if n else nan,
        "n_nonfinite": pairs.n_nonfinite,
    }
    if pairs.looked_at:
        row["clipped_percentage"] = 100 * pairs.clipped / pairs.looked_at
    appeared = norm_a == 0 and norm_b > 0
    row["change_score"] = _score(row["mean_diff"], row["std_diff"], ratio, appeared=appeared)
    row["flag"] = _flag(pairs, norm_a, norm_b, distance)
    return row


def sqnr_db(signal: float, noise: float) -> float:
    """The ratio of two sums of squares in dB; infinite without noise, NaN without a signal or beyond float64."""
    if not signal or not isfinite(signal) or not isfinite(noise):
        return nan
    return 10 * log10(signal / noise) if noise and signal / noise else inf


def _cosine(pairs: PairStatistics, norm_a: float, norm_b: float) -> float:
    """Rounding may pass 1 where vectors are parallel, and is kept out where they are equal."""
    if not norm_a or not norm_b:
        return nan
    if pairs.identical and isfinite(norm_a):
        return 1.0
    cosine = pairs.dot / norm_a / norm_b
    return cosine if isnan(cosine) else max(-1.0, min(1.0, cosine))


def _flag(pairs: PairStatistics, norm_a: float, norm_b: float, distance: float) -> str:
    flags = []
    if not pairs.n:
        flags.append("nothing finite" if pairs.n_nonfinite else "empty")
    elif pairs.n_nonfinite:
        flags.append("non-finite")
    if pairs.n and not (isfinite(norm_a) and isfinite(norm_b) and isfinite(distance)):
        flags.append("overflow")
    if pairs.n and (norm_a == 0 or norm_b == 0):
        flags.append("both are zero" if norm_a == norm_b else "a is zero" if norm_a == 0 else "b is zero")
    return ", ".join(flags)


def without_comparison(reason: str) -> dict[str, Any]:
    """The fields of a parameter that both models name and that cannot be compared: not comparable, the rest NaN."""
    row: dict[str, Any] = {}
    for column in COLUMNS:
        name, _, key = column.name.partition(".")
        if key:
            row.setdefault(name, {})[key] = nan
        else:
            row[name] = "" if column.type == "text" else nan
    return row | {"comparable": False, "comparable_reason": reason}


def change_score(metrics: Mapping[str, Any]) -> float:
    """The score of one parameter's fields, those of a file read back included (null is NaN); NaN where it is not
    comparable or nothing is known.
    """
    if metrics.get("comparable") is False:
        return nan
    given = number_of(metrics, "change_score")
    if not isnan(given):
        return given
    return _score(*(number_of(metrics, name) for name in ("mean_diff", "std_diff", "l2_norm_ratio")))


def _score(mean_diff: float, std_diff: float, ratio: float, *, appeared: bool = False) -> float:
    """A ratio that is not defined counts as no change, or as 1 where there was nothing before: as where all is gone."""
    norm = abs(ratio - 1) if not isnan(ratio) else float(appeared)
    return 10 * abs(mean_diff) + 10 * abs(std_diff) + norm


def is_frozen(metrics: Mapping[str, Any]) -> bool:
    """Whether the parameter is the same in both, or its norm is within 1 +- FROZEN."""
    ratio = number_of(metrics, "l2_norm_ratio")
    return number_of(metrics, "identical_percentage") == 100 or 1 - FROZEN < ratio < 1 + FROZEN


def is_adapted(metrics: Mapping[str, Any]) -> bool:
    """Whether the norm is beyond 1 +- ADAPTED."""
    ratio = number_of(metrics, "l2_norm_ratio")
    return ratio < 1 - ADAPTED or ratio > 1 + ADAPTED


def number_of(fields: Any, name: str) -> float:
    """The field as a float; NaN where `fields` is no mapping, or holds no number there."""
    value = fields.get(name) if isinstance(fields, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else nan


def derive_from_summaries(sides: Sequence[Mapping[str, Any]], reason: str) -> dict[str, Any]:
    """What `sides`, the basic_stats {field: value} of two tensors of one shape, tell without weights; the rest NaN.

    Where there is no `l2`, the norm ratio follows from mean and standard deviation: norm^2 = n (mean^2 + std^2), with
    the same n. `reason` says why the weights were not used.
    """
    row = without_comparison(reason) | {"comparable": True}
    means, stds, norms = [[number_of(side, name) for side in sides] for name in ("mean", "std", "l2")]
    norm_a, norm_b = (
        sqrt(mean * mean + std * std) if any(map(isnan, norms)) else norm
        for mean, std, norm in zip(means, stds, norms, strict=True)
    )
    row |= {
        "mean_diff": means[1] - means[0],
        "std_diff": stds[1] - stds[0],
        "l2_norm_ratio": norm_b / norm_a if norm_a else nan,
    }
    appeared = norm_a == 0 and norm_b > 0
    row["change_score"] = _score(row["mean_diff"], row["std_diff"], row["l2_norm_ratio"], appeared=appeared)
    return row


MEASURE = Measure(
    name="change",
    doc="How far a parameter is from another's.",
    needs=NEEDS,
    columns=COLUMNS,
    derive=derive,
)
