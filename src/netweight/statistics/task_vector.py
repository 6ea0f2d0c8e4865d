"""A block of one parameter's task vector d = b - a: its singular values, what changed, and the errors of rounding b."""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, inf, isfinite, sqrt
from typing import Any

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, F64Array
from netweight.statistics.spectrum import EPS, Spectrum

__all__ = ["FEW", "Edge", "TaskVectorBlock", "block_of"]

_SMALLEST, _TINIEST = 0.02, 0.0025  # of the elements, by abs(a): there steps are finest, and rounding hides least
_ENOUGH = 64.0  # elements for a share
_PRODUCT = (
    2.0**-9
)  # half a step of bfloat16, relative: adapters' products are often rounded to it before they are added
_GROUP = 32  # neighbours in a row that share a scale in all usual formats of quantised weights
_MORE, _MUCH = 3.0, 8.0  # scaling rows takes one part in `cols` of any d away: more parts are worth a look, or scaled
FEW = 16
"""Values that a 4-bit code tells apart."""


@dataclass(frozen=True)
class Edge:
    """What errors alone reach: no singular value of theirs is above `edge`, and their squares sum to `total`.

    edge: sqrt(largest row sum) + sqrt(largest column sum) of the errors' variances, an upper bound for large matrices
    of independent entries (Bandeira and van Handel 2016, Annals of Probability 44, 4); of equal variances s^2 it is
    Marchenko and Pastur's s (sqrt rows + sqrt cols).
    """

    edge: float
    total: float


_NO_ERRORS = Edge(0.0, 0.0)
_NO_SPECTRUM = Spectrum.undefined(0, 0, "nothing was measured")


@dataclass(frozen=True, eq=False)
class TaskVectorBlock:
    """Of a block of `seen` rows the [rows, cols] that changed anywhere; all below is of these.

    `changed` elements, `zeroed` ones (b = 0, a not), `recast` ones (b is a in b's precision). `smallest` and `tiniest`:
    of the 2% and the 0.25% of elements of least abs(a), in whole binades and zeros apart, how many there are and how
    many changed. `scale`: the number that takes a nearest to b; `unscaled`: what is left of sum d^2 when all of a is
    scaled so, each row, or each column. `uniform`: sum of step^2 / 12 over b, the variances of uniform rounding errors.
    `rounding`: the errors of rounding b, `products`: the same and those of an adapter's product in bfloat16; `spectrum`
    of d. `row_spectrum` and `row_errors` (two bounds): the same of d less a with its rows scaled, where that takes more
    of it away than chance does, else None. `levels`: median number of values of b in groups of 32 neighbours,
    `levels_a` of a. `precision`: bits of b's significands. Where `nonfinite` elements of a or b are NaN or
    infinite, nothing else is measured.
    """

    rows: int
    cols: int
    seen: int
    nonfinite: int = 0
    changed: int = 0
    zeroed: int = 0
    recast: int = 0
    smallest: tuple[int, int] = (0, 0)
    tiniest: tuple[int, int] = (0, 0)
    scale: float = 1.0
    unscaled: tuple[float, float, float] = (0.0, 0.0, 0.0)
    uniform: float = 0.0
    rounding: Edge = _NO_ERRORS
    products: Edge = _NO_ERRORS
    spectrum: Spectrum = _NO_SPECTRUM
    row_spectrum: Spectrum | None = None
    row_errors: tuple[Edge, ...] = ()
    levels: float = 0.0
    levels_a: float = 0.0
    precision: int = 0

    @property
    def size(self) -> int:
        """Elements."""
        return self.rows * self.cols

    @property
    def rows_scaled(self) -> bool:
        """Whether scaling each row takes away more of sum d^2 than one number for all, and than chance does."""
        return self.unscaled[0] - self.unscaled[1] > _MUCH * self.spectrum.square_sum / max(1, self.cols)


def block_of(a: Array, b: Array, dtype: DType) -> TaskVectorBlock:
    """Of a block of base and model, float32 or float64 [rows, cols]; `dtype`: the elements' type in the model."""
    seen, cols = a.shape
    if nonfinite := int(np.count_nonzero(~(np.isfinite(a) & np.isfinite(b)))):
        return TaskVectorBlock(seen, cols, seen, nonfinite)
    touched = (a != b).any(axis=1)
    if not touched.all():
        a, b = a[touched], b[touched]
    if not len(a):
        return TaskVectorBlock(0, cols, seen)
    with np.errstate(over="ignore", invalid="ignore"):  # sums of squares beyond float64 are infinite
        return _measured(a, b, seen, dtype)


def _measured(a: Array, b: Array, seen: int, dtype: DType) -> TaskVectorBlock:
    """Of rows that changed."""
    from netweight.kernels.cpu import update_loops as loops  # noqa: PLC0415 - loops are compiled where they are needed

    rows, cols = a.shape
    precision, steps = _steps(b, dtype)
    d = np.empty((rows, cols))
    by_row, by_col = np.zeros((3, rows)), np.zeros((3, cols))
    binades, counts = np.zeros((loops.BINADES, 3)), np.zeros(3)
    loops.count_changes(a, b, steps, d, by_row, by_col, binades, counts)
    square = float(by_row[0].sum())
    smallest, least = _smallest(binades, _SMALLEST)
    errors = np.zeros(rows), np.zeros(cols)
    uniform = loops.sum_errors(b, steps, least, by_row[0] / cols, by_col[0] / rows, *errors)
    products = errors[0] + _PRODUCT**2 / 3 * by_row[0], errors[1] + _PRODUCT**2 / 3 * by_col[0]
    own = float(by_row[2].sum())
    scale = float(by_row[1].sum()) / own if own else 0.0
    unscaled = square - scale * float(by_row[1].sum()), _left(by_row), _left(by_col)
    row_spectrum: Spectrum | None = None
    row_errors: tuple[Edge, ...] = ()
    taken = (square - unscaled[1]) / square if square else 0.0
    if taken > _MORE / cols and isfinite(square):
        rest = d - a * _scales(by_row)[:, None]
        row_spectrum = _spectrum(rest, float(np.square(rest).sum()))
        # scaling rows also takes away, and leaves in place of it, what a low rank has along them
        row_errors = tuple(_edge(products[0] + s * by_row[0], products[1] + s * by_col[0]) for s in (1 / cols, taken))
    return TaskVectorBlock(
        rows,
        cols,
        seen,
        changed=int(counts[loops.CHANGED]),
        zeroed=int(counts[loops.ZEROED]),
        recast=int(counts[loops.RECAST]),
        smallest=smallest,
        tiniest=_smallest(binades, _TINIEST)[0],
        scale=1 + scale,
        unscaled=unscaled,
        uniform=uniform,
        rounding=_edge(*errors),
        products=_edge(*products),
        spectrum=_spectrum(d, square),
        row_spectrum=row_spectrum,
        row_errors=row_errors,
        levels=_levels(b),
        levels_a=_levels(a),
        precision=precision,
    )


def _scales(sums: F64Array) -> F64Array:
    """By row or column: the s that makes sum (d - s a)^2 least, of sums [3, n] as loops.count_changes adds them."""
    scales: F64Array = np.divide(sums[1], sums[2], out=np.zeros_like(sums[1]), where=sums[2] > 0.0)
    return scales


def _left(sums: F64Array) -> float:
    """What is left of sum d^2 when every row or column of a is scaled as fits best."""
    return max(0.0, float((sums[0] - _scales(sums) * sums[1]).sum()))


def _steps(b: Array, dtype: DType) -> tuple[int, F64Array]:
    """Bits of the significands that b's elements have, and the spacing of such numbers by binade, float64 [2048].

    A bfloat16 model that was widened to float32 is still one of bfloat16.
    """
    import ml_dtypes  # noqa: PLC0415 - as numpy knows the types that files have

    info: Any = ml_dtypes.finfo(dtype.to_numpy())  # type: ignore[no-untyped-call]
    width, bits = (np.uint32, 23) if b.dtype == np.float32 else (np.uint64, 52)
    used = int(np.bitwise_or.reduce(b.view(width), axis=None)) & ((1 << bits) - 1)
    unused = (used & -used).bit_length() - 1 if used else bits
    precision = min(int(info.nmant), bits - unused) + 1
    finest = max(int(info.minexp), -1000) - int(info.nmant)  # below the smallest normal number they lie no closer
    exponents = np.minimum(np.arange(2048) - 1023, 1023) - (precision - 1)  # infinities have the last one
    return precision, np.ldexp(1.0, np.maximum(exponents, finest))


def _smallest(binades: F64Array, share: float) -> tuple[tuple[int, int], float]:
    """Of so many elements of least abs(a), in whole binades and zeros apart: how many there are, how many of them
    changed; and their mean d^2.
    """
    held = binades[1:]
    total = float(held[:, 0].sum())
    if not total:
        return (0, 0), 0.0
    first = int(np.searchsorted(np.cumsum(held[:, 0]), min(total, max(_ENOUGH, share * total))))
    n, changed, square = held[: first + 1].sum(axis=0)
    return (int(n), int(changed)), float(square / n)


def _edge(rows: F64Array, cols: F64Array) -> Edge:
    return Edge(sqrt(rows.max(initial=0.0)) + sqrt(cols.max(initial=0.0)), float(rows.sum()))


def _spectrum(d: F64Array, square_sum: float) -> Spectrum:
    """By the Gram matrix of the shorter side; small values, below 1e-7 sigma_1, are lost in it. `d` is scaled."""
    from netweight.kernels.cpu import lapack  # noqa: PLC0415

    rows, cols = d.shape
    short = min(rows, cols)
    largest = float(np.abs(d).max(initial=0.0))
    if not largest:
        return Spectrum(np.zeros(short), rows, cols, 0.0, "zero", 0.0, complete=True)
    exponent = frexp(largest)[1]
    np.ldexp(d, -exponent, out=d)
    gram = np.zeros((short, short))
    lapack.add_square(d, gram, transposed=rows < cols)
    roots = np.sqrt(np.maximum(lapack.eigenvalues(gram)[::-1], 0.0))
    error = sqrt(EPS * (short + max(rows, cols)))
    reason = "" if square_sum < inf else "sums of squares beyond float64"
    return Spectrum(np.ldexp(roots, exponent), rows, cols, square_sum, "gram", error, complete=True, reason=reason)


def _levels(values: Array) -> float:
    """The median number of different values in groups of 32 neighbours of a row; 0 where rows are shorter."""
    groups = values.shape[1] // _GROUP
    if not groups:
        return 0.0
    chosen = values[:: max(1, len(values) // 64), : groups * _GROUP].reshape(-1, _GROUP)[:: max(1, groups // 4)]
    ordered = np.sort(chosen, axis=1)
    return float(np.median(1 + np.count_nonzero(np.diff(ordered, axis=1), axis=1)))
