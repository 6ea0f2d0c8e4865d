"""Quantization: what int8 and int4 would lose of a matrix, and the outliers that make it hard.

Symmetric per-tensor int8 in float64: scale = max abs / 127, x' = clamp(rint(x / scale), -128, 127) scale, ties to even.
Errors of groups: relative error sqrt(sum (x - x')^2 / sum x^2), SQNR 10 log10(sum x^2 / sum (x - x')^2); elements that
are not finite count as zeros there. Fences after Tukey 1977. The thresholds of the advice are empirical.
"""

from __future__ import annotations

from math import inf, isfinite, log10, nan, sqrt
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.measures.basic_stats import percentage
from netweight.measures.measure import Measure
from netweight.statistics.channels import CHANNELS
from netweight.statistics.values import INT8, MOMENTS, OUTSIDE, Int8Sums, Values

if TYPE_CHECKING:
    from netweight.statistics.channels import Channels

__all__ = ["COLUMNS", "MEASURE", "NEEDS", "advice", "derive"]

NEEDS = frozenset({MOMENTS, OUTSIDE, INT8, CHANNELS})

_GROUPS = (
    ("per_channel_int8", "int8", "int8, a symmetric scale (max abs / 127) for every row"),
    ("int4_g128_symmetric", "int4_g128_symmetric", "int4 in groups of 128 along the columns, scale max abs / 7"),
    ("int4_g128_asymmetric", "int4_g128_asymmetric", "int4 in groups of 128, scale (max - min) / 15 from the least"),
    ("int4_g32_symmetric", "int4_g32_symmetric", "int4 in groups of 32 along the columns, scale max abs / 7"),
    ("int4_g32_asymmetric", "int4_g32_asymmetric", "int4 in groups of 32, scale (max - min) / 15 from the least"),
)

_LIMITS = "extreme outliers 0.1 / 1 / 10%, SQNR 40 / 30 dB"

COLUMNS = (
    Column("abs_max", "", "max abs(x)", "number"),
    Column("dynamic_range", "", "max abs(x) / mean abs(x)", "number"),
    Column("quantization_scale", "", "max abs(x) / 127: symmetric per-tensor int8", "number"),
    Column("quantization_mse", "", "mean (x - x')^2, x' the int8 copy of x", "number"),
    Column("quantization_mae", "", "mean abs(x - x')", "number"),
    Column("cosine_similarity", "", "<x, x'> / (norm x * norm x'), in float64 and at most 1", "number"),
    Column("sqnr_db", "dB", "10 log10(mean x^2 / quantization_mse); infinite where that is 0", "number"),
    Column("sqnr_reason", "", "why sqnr_db is no number", "text"),
    Column("relative_error", "", "sqrt(sum (x - x')^2 / sum x^2)", "number"),
    Column("outlier_percentage", "%", "finite elements outside [q25 - 1.5 IQR, q75 + 1.5 IQR]", "number"),
    Column("outlier_count", "elements", "finite elements outside [q25 - 1.5 IQR, q75 + 1.5 IQR]", "integer"),
    Column("extreme_outlier_percentage", "%", "finite elements outside [q25 - 3 IQR, q75 + 3 IQR]", "number"),
    Column("extreme_outlier_count", "elements", "finite elements outside [q25 - 3 IQR, q75 + 3 IQR]", "integer"),
    Column("outlier_low", "", "q25 - 1.5 IQR", "number"),
    Column("outlier_high", "", "q75 + 1.5 IQR", "number"),
    Column("extreme_outlier_low", "", "q25 - 3 IQR", "number"),
    Column("extreme_outlier_high", "", "q75 + 3 IQR", "number"),
    *(
        column
        for name, _, doc in _GROUPS
        for column in (
            Column(f"{name}_relative_error", "", f"sqrt(sum (x - x')^2 / sum x^2): {doc}", "number"),
            Column(
                f"{name}_sqnr_db", "dB", f"10 log10(sum x^2 / sum (x - x')^2), infinite where exact: {doc}", "number"
            ),
        )
    ),
    Column("recommendation", "", f"advice; thresholds: {_LIMITS}", "text"),
    Column(
        "risk_level",
        "",
        f"low, medium, high, critical, broken where elements are NaN or infinite, or unknown; thresholds: {_LIMITS}",
        "text",
    ),
)

_MEND = ("mend first: NaN or infinite values", "broken")
_ALL_ZERO = ("nothing to lose: all elements are zero", "low")
_NO_SUMS = Int8Sums(nan, nan, nan, nan, nan)


def advice(extreme_outlier_percentage: float, sqnr_db: float) -> tuple[str, str]:
    """(recommendation, risk level) of a matrix whose elements are finite; nan for numbers that are not known."""
    if extreme_outlier_percentage != extreme_outlier_percentage or sqnr_db != sqnr_db:  # noqa: PLR0124 - nan
        return "none: no quantization error is defined", "unknown"
    if extreme_outlier_percentage > 10:
        return "do not quantize to 8 bit", "critical"
    if extreme_outlier_percentage < 0.1 and sqnr_db > 40:
        return "8 bit: Q8_0, FP8, int8", "low"
    if extreme_outlier_percentage <= 1 and sqnr_db > 30:
        return "8 bit in blocks: Q8_0; FP8 or int8 by channel", "medium"
    return "keep 16 bit, or smooth before quantizing (SmoothQuant, AWQ)", "high"


def _ratios(error: float, square_sum: float) -> tuple[float, float]:
    """(relative error, SQNR in dB) of sums of squares."""
    if error == 0:
        return 0.0, inf
    if not (isfinite(error) and isfinite(square_sum) and square_sum > 0):
        return nan, nan
    return sqrt(error / square_sum), 10 * (log10(square_sum) - log10(error))


def _reason(values: Values, error: float) -> str:
    m = values.moments
    if not m.n:
        return "no finite element"
    if not m.maxabs:
        return "all elements are zero"
    if error == 0 and m.square_sum > 0:
        return "quantized without error"
    if not isfinite(m.square_sum) or not isfinite(error):
        return "sums of squares beyond float64"
    return "" if m.square_sum > 0 and error else "squares below float64"


def _cosine(sums: Int8Sums, square_sum: float) -> float:
    norms = sqrt(square_sum) * sqrt(sums.quantized_square)
    if not (isfinite(norms) and norms > 0 and isfinite(sums.product)):
        return nan
    return 1.0 if sums.error_square == 0 else min(1.0, sums.product / norms)


def derive(values: Values, channels: Channels) -> dict[str, Any]:
    """{column: value} of one matrix; nan where nothing is defined, inf where there is no error."""
    m = values.moments
    sums = values.int8 or _NO_SUMS
    mean_abs = m.l1 / m.n if m.n else nan
    relative, sqnr = _ratios(sums.error_square, m.square_sum)
    outside = values.outside
    outliers, extremes = (outside.count, outside.extreme_count) if outside else (0, 0)
    row = {
        "abs_max": m.maxabs if m.n else nan,
        "dynamic_range": m.maxabs / mean_abs if mean_abs else nan,
        "quantization_scale": sums.scale,
        "quantization_mse": sums.error_square / m.n if m.n else nan,
        "quantization_mae": sums.error_absolute / m.n if m.n else nan,
        "cosine_similarity": _cosine(sums, m.square_sum),
        "sqnr_db": sqnr,
        "sqnr_reason": _reason(values, sums.error_square),
        "relative_error": relative,
        "outlier_percentage": percentage(outliers, m.n),
        "outlier_count": outliers,
        "extreme_outlier_percentage": percentage(extremes, m.n),
        "extreme_outlier_count": extremes,
        "outlier_low": outside.low if outside else nan,
        "outlier_high": outside.high if outside else nan,
        "extreme_outlier_low": outside.extreme_low if outside else nan,
        "extreme_outlier_high": outside.extreme_high if outside else nan,
    }
    for name, field, _ in _GROUPS:
        error = getattr(channels, field) if m.n else nan
        row[f"{name}_relative_error"], row[f"{name}_sqnr_db"] = _ratios(error, m.square_sum)
    if values.n_nan or values.n_inf:
        row["recommendation"], row["risk_level"] = _MEND
    elif m.n and not m.maxabs:
        row["recommendation"], row["risk_level"] = _ALL_ZERO
    else:
        row["recommendation"], row["risk_level"] = advice(percentage(extremes, m.n), sqnr)
    return row


MEASURE = Measure(
    name="quantization",
    doc="What int8 and int4 would lose, and outliers.",
    needs=NEEDS,
    columns=COLUMNS,
    derive=derive,
    takes=("values", "channels"),
    compared=(
        "sqnr_db_diff",
        "outlier_percentage_diff",
        "extreme_outlier_percentage_diff",
        "dynamic_range_diff",
    ),
)
