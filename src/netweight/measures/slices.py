"""Slices: a convolution as WeightWatcher sees it, all its k x k slices in one list of eigenvalues, by tail's columns.

Of a weight [N, M, height, width] every W[:, :, i, j] is a matrix; eigenvalues are halved (`conv2d_norm`). For other
tensors there is none. Source: WeightWatcher 0.7.7, `conv2D_Wmats` and `apply_normalize_Wmats`; tail.py has the rest.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.columns import Column
from netweight.measures import tail
from netweight.measures.measure import Measure
from netweight.statistics.spectrum import EPS, Spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COLUMNS", "MEASURE", "derive"]

COLUMNS = (*tail.COLUMNS, Column("slices", "matrices", "height x width; 0 where it is no convolution", "integer"))


def derive(spectra: Sequence[Spectrum]) -> dict[str, Any]:
    """{column: value} of the spectra of all slices, none where the tensor is no 2-D convolution."""
    if not spectra:
        missing = Spectrum.undefined(0, 0, "no convolution of two dimensions")
        return {**tail.derive(missing), "slices": 0}
    first = spectra[0]
    broken = next((one for one in spectra if not one.defined or not one.complete), None)
    if broken is not None:
        return {**tail.derive(broken), "slices": len(spectra)}
    values = np.sort(np.concatenate([one.values for one in spectra]))[::-1] / sqrt(2.0)
    together = Spectrum(
        values,
        first.rows,
        first.cols,
        sum(one.square_sum for one in spectra) / 2,
        "gram",
        max(one.error for one in spectra),
        complete=True,
    )
    row = tail.derive(together)
    row["num_evals"] = len(values)
    row["sv_min"] = max(one.smallest for one in spectra) / sqrt(2.0)
    long = max(first.rows, first.cols)
    row["rank_loss"] = sum(
        len(one.values) - int(np.count_nonzero(one.values > one.largest * long * EPS)) for one in spectra
    )
    return {**row, "slices": len(spectra)}


MEASURE = Measure(
    name="slices",
    doc="tail of convolutions, slice by slice. Not one of all.",
    needs=frozenset({"slices"}),
    columns=COLUMNS,
    derive=derive,
    takes=("slices",),
    shown=("alpha",),
)
