"""Randomize: the spectrum of a matrix beside the one of its elements in random order, with WeightWatcher's columns.

What order adds is gone from the second, what single elements do is not: an eigenvalue of it beyond the law of
independent numbers is a correlation trap. Source: `analyze(randomize=True)` of WeightWatcher 0.7.7; Prakash and Martin
(2025), "Grokking and generalization collapse", for traps. docs/measures/randomize.md has what it tells.
"""

from __future__ import annotations

from math import nan, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.columns import Column
from netweight.measures.bulk import bulk_of, fields_of
from netweight.measures.measure import Measure
from netweight.statistics.bulk import beyond_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netweight.kernels.arrays import F64Array
    from netweight.statistics.spectrum import Spectrum

__all__ = ["COLUMNS", "MEASURE", "derive"]

COLUMNS = (
    Column("rand_num_spikes", "eigenvalues", "correlation traps: beyond rand_bulk_max and its fluctuation", "integer"),
    Column("rand_beyond", "eigenvalues", "the same by the law of noise of the same mean square, not fitted", "integer"),
    Column("rand_distance", "", "Jensen-Shannon distance of the two spectra, paired by rank", "number"),
    Column("max_rand_eval", "", "largest eigenvalue in random order", "number"),
    Column("ww_softrank", "", "max_rand_eval / lambda_max", "number"),
    Column("ww_maxdist", "", "lambda_max - max_rand_eval", "number"),
    Column("rand_mp_softrank", "", "rand_bulk_max / max_rand_eval", "number"),
    Column("rand_sigma_mp", "", "standard deviation of the law, where the mean eigenvalue is 1", "number"),
    Column("rand_bulk_min", "", "lower edge of the law fitted to the spectrum in random order", "number"),
    Column("rand_bulk_max", "", "its upper edge", "number"),
    Column("rand_W_scale", "", "sqrt(number / sum of the eigenvalues in random order)", "number"),
    Column("randomize_reason", "", "why values of this row are not known; empty where all are", "text"),
)


def derive(spectrum: Spectrum, permuted: Sequence[Spectrum]) -> dict[str, Any]:
    """{column: value} of one matrix; `permuted`: spectra of its elements in random order, none where it is a vector."""
    row: dict[str, Any] = dict.fromkeys((column.name for column in COLUMNS), nan)
    reason = _reason(spectrum, permuted)
    if reason:
        return row | {"randomize_reason": reason}
    values, random = (np.square(one.values[::-1]) for one in (spectrum, permuted[0]))
    largest = max(one.largest * one.largest for one in permuted)
    row |= {
        "max_rand_eval": largest,
        "rand_distance": jensen_shannon(values, random),
        "ww_softrank": float(random[-1] / values[-1]),
        "ww_maxdist": float(values[-1] - random[-1]),
        "rand_beyond": beyond_noise(random, *sorted((spectrum.rows, spectrum.cols), reverse=True)),
    }
    found = bulk_of(*permuted)
    if isinstance(found, str):
        return row | {"randomize_reason": found}
    return row | {f"rand_{name}": value for name, value in fields_of(found).items()} | {"randomize_reason": ""}


def _reason(spectrum: Spectrum, permuted: Sequence[Spectrum]) -> str:
    if not permuted:
        return "a vector has one singular value, whatever the order of its elements"
    for one in (spectrum, *permuted):
        if not one.defined:
            return one.reason or "no eigenvalues"
        if not one.complete:
            return f"only the largest {len(one.values)} of {one.total} eigenvalues are known"
        if one.zero:
            return "all elements are zero"
    return ""


def jensen_shannon(p: F64Array, q: F64Array) -> float:
    """The distance of two positive vectors, each a distribution once it is divided by its sum.

    As WeightWatcher has it: their mean is taken before they are divided, so that the larger one counts more.
    """
    middle = (p + q) / 2
    middle = middle / middle.sum()
    divergence = 0.0
    for one in (p / p.sum(), q / q.sum()):
        some = one > 0
        divergence += float((one[some] * np.log(one[some] / middle[some])).sum()) / 2
    return sqrt(max(0.0, divergence))


MEASURE = Measure(
    name="randomize",
    doc="The spectrum of shuffled elements. Not one of all.",
    needs=frozenset({"spectrum", "permuted"}),
    columns=COLUMNS,
    derive=derive,
    takes=("spectrum", "permuted"),
    shown=("rand_beyond", "rand_distance"),
)
