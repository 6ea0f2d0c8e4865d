"""Formats: the error of a matrix in the formats that models are shipped in, from rows that a stated rule chooses.

Relative error sqrt(sum (x - x')^2 / sum x^2) and SQNR -20 log10 of it, x' what the format gives back. Sources of the
encoders: statistics/formats; docs/measures/formats.md says how near they are to those of the back ends.
"""

from __future__ import annotations

from math import inf, log10, nan
from typing import TYPE_CHECKING, Any

from netweight.columns import Column
from netweight.measures.measure import Measure
from netweight.statistics.formats.ggml import NEEDED, installed
from netweight.statistics.formats.table import FORMATS

if TYPE_CHECKING:
    from netweight.statistics.formats.errors import FormatErrors

__all__ = ["COLUMNS", "LIMITS", "MEASURE", "derive"]

LIMITS = (0.02, 0.04, 0.08)
"""Relative errors that the advice names a format for: those of Q6_K, Q5_K and Q4_K on normal numbers, rounded up."""

COLUMNS = (
    *(
        column
        for one in FORMATS
        for column in (
            Column(f"{one.key}_relative_error", "", f"sqrt(sum (x - x')^2 / sum x^2): {one.doc}", "number"),
            Column(f"{one.key}_sqnr_db", "dB", f"-20 log10 of it, infinite where exact: {one.doc}", "number"),
        )
    ),
    Column("sampled_rows", "rows", "rows that were encoded", "integer"),
    Column(
        "sampling_error", "", "largest standard error of these relative errors, of themselves; 0: all rows", "number"
    ),
    Column("mean_square", "", "mean x^2 of the encoded rows", "number"),
    Column("smallest", "", "the format of the fewest bits below errors of 0.02, 0.04 and 0.08, and its bits", "text"),
    Column("formats_reason", "", "why formats have no error here; empty where all have one", "text"),
)


def derive(found: FormatErrors) -> dict[str, Any]:
    """{column: value} of one matrix; nan where a format cannot take it, and then `formats_reason` says why."""
    row: dict[str, Any] = {}
    for one in FORMATS:
        error = found.relative(one.key) if one.key in found.errors else nan
        row[f"{one.key}_relative_error"] = error
        row[f"{one.key}_sqnr_db"] = -20 * log10(error) if error > 0 else inf if error == 0 else nan
    row["sampled_rows"] = found.rows
    row["sampling_error"] = max(found.deviation.values(), default=nan)
    row["mean_square"] = found.mean_square
    row["smallest"] = _smallest(found)
    row["formats_reason"] = _reason(found)
    return row


def _smallest(found: FormatErrors) -> str:
    said = []
    for limit in LIMITS:
        fitting = [one for one in FORMATS if one.key in found.errors and found.relative(one.key) <= limit]
        if fitting:
            best = min(fitting, key=lambda one: (one.bits, found.relative(one.key)))
            said.append(f"{limit:g}: {best.label} ({best.bits:.3g} bits)")
    return ", ".join(said)


def _reason(found: FormatErrors) -> str:
    if found.reason:
        return found.reason
    missing = [one for one in FORMATS if one.key not in found.errors]
    unfit = [one.label for one in missing if installed() or not one.ggml]
    said = []
    if unfit:
        said.append(f"rows do not divide into blocks of {', '.join(unfit)}")
    if len(unfit) < len(missing):
        said.append(NEEDED)
    return "; ".join(said)


MEASURE = Measure(
    name="formats",
    doc="Errors in GGUF types, FP8, FP4, int4, of sampled rows. Not one of all.",
    needs=frozenset({"formats"}),
    columns=COLUMNS,
    derive=derive,
    takes=("formats",),
    shown=("q4_k_relative_error", "fp8_channel_relative_error", "nvfp4_relative_error"),
)
