"""Update: the form of what a fine-tune changed in one matrix, from a block of its task vector d = b - a.

Errors of rounding b have full rank and can be as large as d, so singular values count only where they are above what
errors alone reach (statistics.task_vector.Edge), and a rank is named only where the values end: where a gap follows.
"""

from __future__ import annotations

from math import exp, isfinite, log, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.columns import Column
from netweight.measures.measure import Measure
from netweight.statistics.spectrum import Spectrum
from netweight.statistics.task_vector import FEW, Edge, TaskVectorBlock

if TYPE_CHECKING:
    from netweight.kernels.arrays import F64Array

__all__ = ["COLUMNS", "FORMS", "MEASURE", "NEEDS", "NONFINITE", "WIDE", "derive"]

NEEDS = frozenset({"task_vector"})

FORMS = ("unchanged", "rounded", "scaled", "pruned", "quantised", "sparse", "low rank", "full", "unclear")
"""What `update_form` says, in the order in which they are tried; "unclear" where none can be told."""

MARGIN = 1.05
"""Singular values above MARGIN times the edge count."""
GAP, STEP, WIDE, ALONE = 1.4, 3.0, 10.0, 4
"""The gap sigma_k / sigma_(k + 1) behind a rank k is at least GAP, and in logarithms STEP times the mean ratio of the
neighbours before it; WIDE where k is below ALONE, which are too few to tell a mean. See docs/measures/update.md."""
SPARSE, LEVEL = 0.5, 1.25
"""Less than SPARSE of the 2% of elements of least abs(a) changed, and among the 0.25% not LEVEL times as many: a mask
has left the others out, for what rounding hides gets less with abs(a). So too where fewer than SPARSE of the rows did.
"""
LARGEST = 0.5
"""Of the shorter side: more singular values than that above the errors are no low rank."""
REST = 1.2
"""More than REST times the errors' sum of squares below the counted values: the change goes on below them."""
SMALLEST = 16
"""A shorter side below SMALLEST rows or columns tells no rank."""
ZEROED = 0.9
"""Share of the changed elements that became zero, from which a copy is pruned."""

NONFINITE = "values that are NaN or infinite"
"""Why a form is unclear."""

COLUMNS = (
    Column("update_form", "", f"of what changed: {', '.join(FORMS)}; empty where the matrix was not looked at", "text"),
    Column("update_rank", "", "singular values of d above the errors of rounding, where a gap follows them", "integer"),
    Column("update_effective_rank", "", "exp(-sum p ln p) of the block, p = sigma^2 / sum sigma^2", "number"),
    Column("update_noise_rank", "", "the effective rank that random values of its shape have (Page 1993)", "number"),
    Column("update_density", "%", "share that changed of the 2% of elements of least abs(a)", "number"),
    Column("update_scale", "", "b / a where all of a is scaled by one number", "number"),
    Column("update_scaled", "", "what is scaled, whatever else: all, rows, or columns by numbers of their own", "text"),
    Column("update_gap", "", "sigma_k / sigma_(k + 1) behind the rank k", "number"),
    Column("update_above", "", "singular values of d above the errors of rounding", "integer"),
    Column("update_block", "", "rows that changed, and columns, of the block that was looked at", "integers"),
    Column("update_rows", "", "rows of the block, changed or not", "integer"),
    Column("update_reason", "", "why the form is unclear", "text"),
)


def derive(block: TaskVectorBlock) -> dict[str, Any]:
    """{field: value} of one block; None where undefined."""
    spectrum = block.spectrum
    row: dict[str, Any] = {
        **dict.fromkeys((c.name for c in COLUMNS), None),
        "update_block": [block.rows, block.cols],
        "update_rows": block.seen,
        "update_reason": "",
    }
    if block.nonfinite:
        return row | {"update_form": "unclear", "update_reason": NONFINITE}
    if not block.changed:
        return row | {"update_form": "unchanged"}
    if not spectrum.defined or not isfinite(spectrum.square_sum):
        return row | {"update_form": "unclear", "update_reason": "sums of squares beyond float64"}
    row["update_density"] = 100 * block.smallest[1] / block.smallest[0] if block.smallest[0] else None
    row["update_effective_rank"] = _effective_rank(block)
    row["update_noise_rank"] = _noise_rank(block)
    row["update_above"] = spectrum.above(MARGIN * block.rounding.edge)
    scaled = _scaled(block)
    if block.recast == block.size:
        return row | {"update_form": "rounded"}
    if scaled:
        scale = block.scale if scaled == "all" else None
        return row | {"update_form": "scaled", "update_scaled": scaled, "update_scale": scale}
    if block.zeroed >= ZEROED * block.changed:
        return row | {"update_form": "pruned"}
    if block.levels and block.levels <= FEW < block.levels_a:
        return row | {"update_form": "quantised"}
    if _is_masked(block):
        return row | {"update_form": "sparse"}
    found = _of_spectrum(block)
    if found["update_form"] in ("full", "unclear") and block.rows < SPARSE * block.seen:
        return row | {"update_form": "sparse"}
    return row | found


def _is_masked(block: TaskVectorBlock) -> bool:
    """Whether most elements stayed, and about as many of the tiniest as of the small ones; by three deviations."""
    n, changed = block.smallest
    expected = LEVEL * block.tiniest[0] * changed / n if n else 0.0
    return changed < SPARSE * n and block.tiniest[1] <= expected + 3 * sqrt(expected)


def _effective_rank(block: TaskVectorBlock) -> float:
    p = np.square(block.spectrum.values / block.spectrum.largest)
    p = p[p > 0.0] / p.sum()
    return exp(-float((p * np.log(p)).sum()))


def _noise_rank(block: TaskVectorBlock) -> float:
    """m exp(-m / 2n) for m <= n: Page 1993 (Physical Review Letters 71, 1291), of complex values; real ones agree."""
    short, long = sorted((block.rows, block.cols))
    return short * exp(-short / (2 * long))


def _scaled(block: TaskVectorBlock) -> str:
    """What is scaled, where d is that but for the errors of rounding b: half a step at most, 3 times their mean."""
    if block.spectrum.square_sum <= 12 * block.uniform:
        return ""
    for what, left in zip(("all", "rows", "columns"), block.unscaled, strict=True):
        if left <= 3 * block.uniform + 1e-12 * block.spectrum.square_sum:
            return what
    return ""


def _of_spectrum(block: TaskVectorBlock) -> dict[str, Any]:
    """Low rank, full, or unclear."""
    short = min(block.rows, block.cols)
    if short < SMALLEST:
        return {"update_form": "unclear", "update_reason": f"only {short} rows or columns"}
    for edge in (block.rounding, block.products):
        if found := _rank(block.spectrum, edge):
            return found
    for edge in block.row_errors:
        if block.row_spectrum is not None and (found := _rank(block.row_spectrum, edge)):
            return found | {"update_scaled": "rows"}
    if block.rows_scaled:
        reason = "rows are scaled by numbers of their own, as DoRA does, or changed along themselves"
        return {"update_form": "unclear", "update_reason": reason}
    above = block.spectrum.above(MARGIN * block.rounding.edge)
    if above > LARGEST * short or block.spectrum.rest(above) > REST * block.rounding.total:
        return {"update_form": "full"}
    if not above:
        return {"update_form": "unclear", "update_reason": "the errors of rounding hide it"}
    reason = f"{above} of {short} singular values are above the errors of rounding, and no gap follows"
    return {"update_form": "unclear", "update_reason": reason}


def _rank(spectrum: Spectrum, errors: Edge) -> dict[str, Any]:
    """The rank, where a gap follows the values above the errors; else empty."""
    values, rank = spectrum.values, spectrum.above(MARGIN * errors.edge)
    if not 0 < rank <= LARGEST * len(values) or rank == len(values):
        return {}
    # of smaller values the Gram matrix knows little
    gap = float(values[rank - 1]) / max(float(values[rank]), spectrum.error * float(values[0]))
    if gap < _least_gap(values, rank):
        return {}
    return {"update_form": "low rank", "update_rank": rank, "update_gap": gap}


def _least_gap(values: F64Array, rank: int) -> float:
    """The gap that no smooth decay has: see GAP."""
    if rank < ALONE:
        return WIDE
    first = rank // 2
    mean = log(float(values[first - 1]) / float(values[rank - 1])) / (rank - first)
    return max(GAP, exp(min(STEP * mean, log(WIDE))))


MEASURE = Measure(
    name="update",
    doc="The form of what a fine-tune changed in one matrix.",
    needs=NEEDS,
    columns=COLUMNS,
    derive=derive,
    takes=("task_vector",),
)
