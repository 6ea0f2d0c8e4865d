"""Spectral: condition number, ranks and norms of one matrix, from its singular values.

sigma_1 >= ... >= sigma_r, r = min(rows, cols), are those of the whole matrix in float64, never of a sample.
Stable rank: Rudelson and Vershynin 2007; entropy rank: Roy and Vetterli 2007, "The effective rank".
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.measures.measure import Measure

if TYPE_CHECKING:
    from netweight.statistics.spectrum import Spectrum

__all__ = ["COLUMNS", "LEADING", "MEASURE", "NEEDS", "derive"]

NEEDS = frozenset({"spectrum"})

LEADING = 10
"""How many of the largest singular values are listed."""

COLUMNS = (
    Column("condition_number", "", "sigma_1 / sigma_r; infinite where singular", "number"),
    Column("singular", "", "sigma_r <= sigma_1 max(rows, cols) 2^-52, the precision of float64", "boolean"),
    Column("condition_number_error", "", "bound of the condition number's relative error", "number"),
    Column("stable_rank", "", "sum sigma^2 / sigma_1^2", "number"),
    Column("stable_rank_ratio", "", "stable_rank / total_rank", "number"),
    Column("effective_rank", "", "singular values above 0.01 sigma_1", "integer"),
    Column("entropy_rank", "", "exp(-sum p ln p), p = sigma / sum sigma", "number"),
    Column("total_rank", "", "min(rows, cols)", "integer"),
    Column("design_rank", "", "min(rows, cols)", "integer"),
    Column("actual_rank", "", "singular values above 1e-6 sigma_1", "integer"),
    Column("rank_ratio", "", "actual_rank / design_rank", "number"),
    Column("matrix_rank", "", "singular values above sigma_1 max(rows, cols) 2^-23, eps of float32", "integer"),
    Column("svd_90_percent_rank", "", "least k whose k largest sigma^2 are 90% of all sigma^2", "integer"),
    Column("svd_90_percent_ratio", "", "svd_90_percent_rank / design_rank", "number"),
    Column("svd_90_percent_rank_at_least", "", "lower bound of svd_90_percent_rank", "integer"),
    Column("max_singular_value", "", "sigma_1", "number"),
    Column("min_singular_value", "", "sigma_r", "number"),
    Column("singular_value_ratio", "", "sigma_r / sigma_1", "number"),
    Column("top_singular_values", "", "the 10 largest", "numbers"),
    Column("nuclear_norm", "", "sum sigma", "number"),
    Column("frobenius_norm", "", "sqrt(sum sigma^2)", "number"),
    Column(
        "spectrum_method",
        "",
        "gram: eigenvalues of the float64 Gram matrix; qr: where these are not enough for the"
        " small end; lanczos: the largest only; zero: all elements are zero",
        "text",
    ),
    Column("spectrum_error", "", "bound of the singular values' absolute errors, over sigma_1", "number"),
    Column("spectrum_reason", "", "why fields of this row are not known; empty where all are", "text"),
)


def derive(spectrum: Spectrum) -> dict[str, Any]:
    """{column: value} of one matrix; nan (`singular`: None) where not known, and why in `spectrum_reason`."""
    total = spectrum.total
    shared = 1.0 / total if total else nan
    reached, at_least = spectrum.rank_of_share(0.9)
    return {
        "condition_number": spectrum.condition_number,
        "singular": spectrum.singular,
        "condition_number_error": spectrum.condition_number_error,
        "stable_rank": spectrum.stable_rank,
        "stable_rank_ratio": spectrum.stable_rank * shared,
        "effective_rank": spectrum.effective_rank,
        "entropy_rank": spectrum.entropy_rank,
        "total_rank": total,
        "design_rank": total,
        "actual_rank": spectrum.actual_rank,
        "rank_ratio": spectrum.actual_rank / total if total else nan,
        "matrix_rank": spectrum.matrix_rank,
        "svd_90_percent_rank": reached,
        "svd_90_percent_ratio": reached / total if total else nan,
        "svd_90_percent_rank_at_least": at_least,
        "max_singular_value": spectrum.largest,
        "min_singular_value": spectrum.smallest,
        "singular_value_ratio": spectrum.ratio,
        "top_singular_values": [float(v) for v in spectrum.values[:LEADING]] if spectrum.defined else [],
        "nuclear_norm": spectrum.nuclear_norm,
        "frobenius_norm": spectrum.frobenius_norm,
        "spectrum_method": spectrum.method,
        "spectrum_error": spectrum.error,
        "spectrum_reason": _reason(spectrum),
    }


def _reason(spectrum: Spectrum) -> str:
    if spectrum.reason:
        return spectrum.reason
    if not spectrum.total:
        return "no elements"
    if spectrum.zero:
        return "all elements are zero"
    if not spectrum.complete:
        return f"only the {len(spectrum.values)} largest of {spectrum.total} singular values were asked for"
    if not spectrum.resolved:
        return "sigma_r is below what the Gram matrix tells apart from zero"
    return "sigma_r is zero to the precision of float64" if spectrum.singular else ""


MEASURE = Measure(
    name="spectral",
    doc="Condition number, ranks and norms.",
    needs=NEEDS,
    columns=COLUMNS,
    derive=derive,
    takes=("spectrum",),
    compared=(
        "condition_number_ratio",
        "stable_rank_diff",
        "max_singular_value_ratio",
        "effective_rank_diff",
        "entropy_rank_diff",
    ),
)
