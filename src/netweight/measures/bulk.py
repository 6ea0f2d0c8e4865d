"""Bulk: the law of Marchenko and Pastur in a spectrum, and what lies beyond it, with WeightWatcher 0.7.7's columns.

Source: Martin and Mahoney (2021), "Implicit self-regularization in deep neural networks", section 3; the fit is that of
`analyze(mp_fit=True)`. docs/measures/bulk.md says where netweight gives no value.
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.columns import Column
from netweight.measures.measure import Measure
from netweight.statistics.bulk import Bulk, fit_bulk
from netweight.statistics.tail import LEAST

if TYPE_CHECKING:
    from netweight.statistics.spectrum import Spectrum

__all__ = ["COLUMNS", "MEASURE", "bulk_of", "derive", "fields_of"]

COLUMNS = (
    Column("num_spikes", "eigenvalues", "beyond bulk_max and its fluctuation", "integer"),
    Column("mp_softrank", "", "bulk_max / lambda_max: 1 is noise, near 0 is far from it", "number"),
    Column("sigma_mp", "", "standard deviation of the law, where the mean eigenvalue is 1", "number"),
    Column("bulk_min", "", "lower edge of the law, an eigenvalue", "number"),
    Column("bulk_max", "", "upper edge of the law, an eigenvalue", "number"),
    Column("W_scale", "", "sqrt(M / sum lambda)", "number"),
    Column("bulk_reason", "", "why there is no law; empty where there is one", "text"),
)


def derive(spectrum: Spectrum) -> dict[str, Any]:
    """{column: value} of one matrix; nan where no law fits, and then `bulk_reason` says why."""
    found = bulk_of(spectrum)
    if isinstance(found, str):
        return dict.fromkeys((column.name for column in COLUMNS), nan) | {"bulk_reason": found}
    return fields_of(found) | {"bulk_reason": ""}


def fields_of(found: Bulk) -> dict[str, Any]:
    """{column: value} of a law."""
    return {
        "num_spikes": found.spikes,
        "mp_softrank": found.soft_rank,
        "sigma_mp": found.sigma,
        "bulk_min": found.low,
        "bulk_max": found.high,
        "W_scale": found.scale,
    }


def bulk_of(*spectra: Spectrum) -> Bulk | str:
    """The law nearest to the eigenvalues of one matrix, or of several of one shape together; else why there is none."""
    first = spectra[0]
    for spectrum in spectra:
        if not spectrum.defined:
            return spectrum.reason or "no eigenvalues"
        if not spectrum.complete:
            return f"only the largest {len(spectrum.values)} of {spectrum.total} eigenvalues are known"
        if spectrum.zero:
            return "all elements are zero"
    if first.total < LEAST:
        return f"{first.total} eigenvalues; a fit needs {LEAST}"
    with np.errstate(over="ignore"):  # infinite squares have a reason of their own
        squares = np.sort(np.square(np.concatenate([spectrum.values for spectrum in spectra])))
        total = float(squares.sum())
    if not 0.0 < total < np.inf:
        return "eigenvalues beyond float64"
    return fit_bulk(squares, max(first.rows, first.cols), min(first.rows, first.cols))


MEASURE = Measure(
    name="bulk",
    doc="What noise makes of a spectrum, and what lies beyond.",
    needs=frozenset({"spectrum"}),
    columns=COLUMNS,
    derive=derive,
    takes=("spectrum",),
    compared=("mp_softrank_diff", "num_spikes_diff"),
    shown=("mp_softrank", "num_spikes"),
)
