"""Singular values: those of a matrix, for a picture."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.columns import Column
from netweight.measures.measure import Measure

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.statistics.spectrum import Spectrum

__all__ = ["COLUMNS", "MEASURE", "MOST", "derive"]

COLUMNS = (
    Column(
        "ranks",
        "",
        "numbers of the singular values that are listed: the first ones, then evenly by their logarithm",
        "integers",
    ),
    Column("values", "", "the singular values of these numbers", "numbers"),
)

MOST = 72
_FIRST = 16  # numbers that are listed whatever follows


@cache
def _ranks(known: int) -> Array:
    """Numbers from 1 to `known`, ascending, some `MOST` at most."""
    first = np.arange(1, min(known, _FIRST) + 1)
    if known <= _FIRST:
        return first
    return np.unique(np.concatenate([first, np.geomspace(_FIRST, known, MOST - _FIRST).round().astype(np.int64)]))


def derive(spectrum: Spectrum) -> dict[str, Any]:
    """{column: value} of one matrix; lists are empty where singular values are not known."""
    if not spectrum.defined:
        return {"ranks": [], "values": []}
    ranks = _ranks(len(spectrum.values))
    return {"ranks": ranks.tolist(), "values": spectrum.values[ranks - 1].tolist()}


MEASURE = Measure(
    name="singular_values",
    doc="Singular values, for a picture. Not one of all.",
    needs=frozenset({"spectrum"}),
    columns=COLUMNS,
    derive=derive,
    takes=("spectrum",),
)
