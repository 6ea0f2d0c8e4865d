"""Tail: the power law in a layer's spectrum, with the columns of WeightWatcher 0.7.7 under their own names.

lambda_i = sigma_i^2, the eigenvalues of W^T W for a matrix of N rows and columns on its long side, M on its short one.
Source: Martin and Mahoney (2021), "Implicit self-regularization in deep neural networks"; Martin, Peng and Mahoney
(2021), "Predicting trends in the quality of state-of-the-art neural networks without access to training or testing
data". docs/measures/tail.md says where and why WeightWatcher differs.
"""

from __future__ import annotations

from math import inf, isfinite, log10, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.columns import Column
from netweight.measures.measure import Measure
from netweight.statistics.cutoff import fit_cutoff
from netweight.statistics.rounding_error import gamma
from netweight.statistics.spectrum import EPS
from netweight.statistics.tail import LEAST, fit_tail, fit_without_fingers, peak_range

if TYPE_CHECKING:
    from netweight.kernels.arrays import F64Array
    from netweight.statistics.spectrum import Spectrum
    from netweight.statistics.tail import TailFit

__all__ = ["COLUMNS", "MEASURE", "NEEDS", "OVER_TRAINED", "THRESHOLD", "UNDER_TRAINED", "derive"]

NEEDS = frozenset({"spectrum"})

THRESHOLD = 1e-5
"""Eigenvalues at or below it are not fitted (WeightWatcher's EVALS_THRESH); absolute, whatever the scale of W."""

OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0
"""alpha below and above which WeightWatcher warns."""

_WEAK = 1e-6  # WeightWatcher's default `tolerance` of an eigenvalue

COLUMNS = (
    Column("alpha", "", "exponent of the tail, density(lambda) ~ lambda^-alpha for lambda >= xmin", "number"),
    Column("D", "", "Kolmogorov-Smirnov distance of tail and fit", "number"),
    Column("sigma", "", "standard error of alpha: (alpha - 1) / sqrt(num_pl_spikes)", "number"),
    Column("xmin", "", "eigenvalue at which the tail begins, the one with the least D", "number"),
    Column("xmax", "", "largest eigenvalue of the fit", "number"),
    Column("num_pl_spikes", "eigenvalues", "lambda >= xmin", "integer"),
    Column("alpha_weighted", "", "alpha log10 lambda_max", "number"),
    Column("log_alpha_norm", "", "log10 sum lambda^alpha", "number"),
    Column("norm", "", "sum lambda, the squared Frobenius norm", "number"),
    Column("log_norm", "", "log10 sum lambda", "number"),
    Column("spectral_norm", "", "lambda_max: the square of the spectral norm of W", "number"),
    Column("log_spectral_norm", "", "log10 lambda_max", "number"),
    Column("stable_rank", "", "sum lambda / lambda_max", "number"),
    Column("matrix_rank", "", "sigma_i > sigma_1 N eps, eps of float64", "integer"),
    Column("rank_loss", "", "M - matrix_rank", "integer"),
    Column("weak_rank_loss", "eigenvalues", "lambda < 1e-6", "integer"),
    Column("entropy", "", "-sum p ln p / ln matrix_rank, p = lambda / sum lambda", "number"),
    Column("lambda_max", "", "largest eigenvalue", "number"),
    Column("sv_max", "", "largest singular value", "number"),
    Column("sv_min", "", "smallest singular value", "number"),
    Column("num_evals", "eigenvalues", "M, the eigenvalues there are", "integer"),
    Column("N", "", "the longer side of the matrix", "integer"),
    Column("M", "", "the shorter side of the matrix", "integer"),
    Column("Q", "", "N / M", "number"),
    Column("warning", "", "over-trained (alpha < 2), under-trained (alpha > 6), or empty", "text"),
    Column("clip_alpha", "", "alpha once fingers, the largest lambda, are cut off (fix_fingers=clip_xmax)", "number"),
    Column("clip_D", "", "D of that fit", "number"),
    Column("clip_xmin", "", "its xmin", "number"),
    Column("num_fingers", "eigenvalues", "fingers; 0: clip_alpha is alpha", "integer"),
    Column(
        "peak_alpha", "", "alpha where xmin is at most 1.5 times the peak of lambda (fix_fingers=xmin_peak)", "number"
    ),
    Column("peak_D", "", "D of that fit", "number"),
    Column("peak_xmin", "", "its xmin", "number"),
    Column("tpl_alpha", "", "exponent with a cut-off: density lambda^-tpl_alpha exp(-tpl_lambda lambda)", "number"),
    Column("tpl_lambda", "", "rate of that cut-off; 0: none", "number"),
    Column("tpl_p", "", "chance of so good a cut-off in a plain power law, by the likelihood ratio", "number"),
    Column(
        "num_ERG_spikes", "eigenvalues", "the fewest of the largest whose product is below 1; M: of none is", "integer"
    ),
    Column("ERG_gap", "eigenvalues", "num_ERG_spikes - num_pl_spikes", "integer"),
    Column("detX_val", "", "the least of these eigenvalues", "number"),
    Column("tail_reason", "", "why there is no alpha; empty where there is one", "text"),
)


def derive(spectrum: Spectrum) -> dict[str, Any]:
    """{column: value} of one matrix; nan where a value is not defined, and then `tail_reason` says why there is no fit.

    A truncated spectrum has its norms, its sides and its largest value; one that is undefined only its sides.
    """
    long, short = max(spectrum.rows, spectrum.cols), min(spectrum.rows, spectrum.cols)
    row: dict[str, Any] = dict.fromkeys((column.name for column in COLUMNS), nan)
    row |= {"num_evals": short, "N": long, "M": short, "Q": long / short if short else nan, "warning": ""}
    if not spectrum.defined:
        return row | {"tail_reason": spectrum.reason or "no eigenvalues"}
    row |= _norms(spectrum)
    if not spectrum.complete:
        return row | {"tail_reason": f"only the largest {len(spectrum.values)} of {short} eigenvalues are known"}
    with np.errstate(over="ignore"):  # infinite squares have a reason of their own
        squares = np.square(spectrum.values)
    row |= _ranks(spectrum.values, squares, long)
    if spectrum.zero:
        return row | {"tail_reason": "all elements are zero"}
    row |= _trace_log(squares[::-1]) | _fit(squares[::-1], long, short)
    return row | {"ERG_gap": row["num_ERG_spikes"] - row["num_pl_spikes"]}


def _norms(spectrum: Spectrum) -> dict[str, Any]:
    largest, length = spectrum.largest, spectrum.frobenius_norm
    square = largest * largest
    return {
        "norm": length * length,
        "log_norm": 2 * _log10(length),
        "spectral_norm": square,
        "log_spectral_norm": 2 * _log10(largest),
        "stable_rank": spectrum.stable_rank,
        "lambda_max": square,
        "sv_max": largest,
    }


def _ranks(values: F64Array, squares: F64Array, long: int) -> dict[str, Any]:
    rank = int(np.count_nonzero(values > values[0] * long * EPS))
    parts = np.square(values[values > 0] / values[0])
    shares = parts[parts > 0] / parts.sum()
    return {
        "matrix_rank": rank,
        "rank_loss": len(values) - rank,
        "weak_rank_loss": int(np.count_nonzero(squares < _WEAK)),
        "entropy": float(-(shares * np.log(shares)).sum() / np.log(rank)) if rank > 1 else nan,
        "sv_min": float(values[-1]),
    }


def _trace_log(ascending: F64Array) -> dict[str, Any]:
    """The fewest of the largest eigenvalues whose product, in units of the mean of all, is below 1: where the trace of
    the logarithm is zero, the condition of an exact renormalisation group.
    """
    if ascending[0] == ascending[-1] or not isfinite(ascending[-1]):
        return {}
    with np.errstate(divide="ignore"):  # of eigenvalues that are 0
        logs = np.log(ascending / ascending[-1]) - np.log((ascending / ascending[-1]).mean())
    below = np.flatnonzero(np.cumsum(logs[:0:-1]) < 0.0)
    count = int(below[0]) + 1 if len(below) else len(ascending)
    return {"num_ERG_spikes": count, "detX_val": float(ascending[-count if len(below) else 1])}


def _fit(ascending: F64Array, long: int, short: int) -> dict[str, Any]:
    fitted = ascending[ascending > THRESHOLD]
    if len(fitted) < LEAST:
        return {"tail_reason": f"{len(fitted)} of {short} eigenvalues are above {THRESHOLD:g}; a fit needs {LEAST}"}
    if not isfinite(fitted[-1]):
        return {"tail_reason": "eigenvalues beyond float64"}
    # of eigenvalues near the largest, by Gram matrix or QR: see the errors of kernels/cpu/spectrum.py
    error = gamma(4 * (long + short))
    fit = fit_tail(fitted, error)
    if fit is None:
        return {"tail_reason": "the eigenvalues do not differ"}
    largest = float(ascending[-1])
    # by the largest: lambda^alpha alone leaves the range of float64 where alpha is in the hundreds
    scaled = fit.alpha * np.log(ascending[ascending > 0] / largest)
    log_alpha_norm = fit.alpha * log10(largest) + log10(float(np.exp(scaled).sum()))
    return {
        "alpha": fit.alpha,
        "D": fit.distance,
        "sigma": fit.sigma,
        "xmin": fit.xmin,
        "xmax": largest,
        "num_pl_spikes": int(np.count_nonzero(ascending >= fit.xmin)),
        "alpha_weighted": fit.alpha * log10(largest),
        "log_alpha_norm": log_alpha_norm,
        "warning": _warning(fit.alpha),
        "tail_reason": "",
    } | _other_fits(fitted, fit, error)


def _other_fits(fitted: F64Array, fit: TailFit, error: float) -> dict[str, Any]:
    """The same tail without fingers, from its peak, and with a cut-off."""
    clipped, fingers = fit_without_fingers(fitted, fit, error)
    peak = fit_tail(fitted, error, peak_range(fitted))
    cut = fit_cutoff(fitted[fitted >= fit.xmin])
    found = {"clip_alpha": clipped.alpha, "clip_D": clipped.distance, "clip_xmin": clipped.xmin, "num_fingers": fingers}
    if peak is not None:
        found |= {"peak_alpha": peak.alpha, "peak_D": peak.distance, "peak_xmin": peak.xmin}
    return found | {"tpl_alpha": cut.alpha, "tpl_lambda": cut.scale, "tpl_p": cut.chance}


def _warning(alpha: float) -> str:
    if alpha < OVER_TRAINED:
        return "over-trained"
    return "under-trained" if alpha > UNDER_TRAINED else ""


def _log10(value: float) -> float:
    return log10(value) if value > 0 else -inf


MEASURE = Measure(
    name="tail",
    doc="The power law in a spectrum, with WeightWatcher's columns.",
    needs=NEEDS,
    columns=COLUMNS,
    derive=derive,
    takes=("spectrum",),
    compared=(
        "alpha_diff",
        "alpha_weighted_diff",
        "rank_loss_diff",
        "entropy_diff",
    ),
)
