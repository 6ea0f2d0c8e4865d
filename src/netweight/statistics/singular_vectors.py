"""The leading singular values and right singular vectors of a matrix that is given by blocks of rows.

Few of many: randomised block Krylov iteration on the Gram matrix of the shorter side (Musco and Musco 2015, Randomized
Block Krylov Methods for Stronger and Faster Approximate Singular Value Decomposition), with Rayleigh-Ritz values, until
further steps would not bring the error of the truncated matrix nearer to the least possible one (Eckart and Young
1936). All else: eigenvectors of that Gram matrix in float64, or a full SVD where the matrix is small. The start is made
of signs that follow from a key, so that the same matrix always gives the same vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ldexp
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from netweight.kernels.arrays import F64Array
    from netweight.kernels.factors import FactorKernels
    from netweight.statistics.row_blocks import RowReader

__all__ = ["Directions", "Rule", "find_directions", "held_bytes", "width_of"]

_TOLERANCE = 6e-5  # of the squares that are left: what all further steps may still gain; half of it in the error
_FLOOR = 1e-13  # of all squares: what float64 does not tell
_WIDE = 1e-4  # of all squares: where no more is left, products are taken in float64
_MOST_STEPS = 24
_NUMERICAL_RANK = 2.0**-22  # of the largest singular value: smaller ones are rounding of float32
_SMALL_SIDE, _SMALL = 192, 1 << 20  # shorter side and elements up to which a full SVD is quick
_ADAPTIVE = 64  # columns of a step where the rank is not known
_HOPELESS = 1.5  # times the squares that may be left: more, and the rank is far above _ADAPTIVE

Method = Literal["krylov", "gram", "svd", "zero"]


@dataclass(frozen=True)
class Rule:
    """How many directions are kept: `rank` of them, or the fewest that leave at most `left` of the sum of squares
    (energy e: 1 - e; relative error e: e^2).
    """

    rank: int | None = None
    left: float | None = None

    def choose(self, squares: F64Array, total: float) -> int:
        """The rank, 1 or more, for `squares` of singular values, descending, of which `total` is the sum with those
        that are not known.
        """
        if self.rank is not None:
            return min(self.rank, len(squares))
        assert self.left is not None  # noqa: S101 - one of the two is given
        rest = total - np.cumsum(squares)
        enough = np.flatnonzero(rest <= self.left * total)
        return int(enough[0]) + 1 if len(enough) else len(squares)


@dataclass(frozen=True, eq=False)
class Directions:
    """`values` float64 [r], descending, and `vectors` float64 [n, r], orthonormal columns; `squares` is the sum of
    squares of the whole matrix, `left` what these directions do not hold of it. `wide`: so little is left that products
    with the matrix should be taken in float64. `readings` of the matrix were needed.
    """

    values: F64Array
    vectors: F64Array
    squares: float
    left: float
    method: Method
    readings: int
    wide: bool = False


def width_of(rank: int) -> int:
    """Columns of a step: some more than directions are asked for, so that they are found in few steps."""
    return -(-(rank + max(8, rank // 4)) // 8) * 8


def _few(rule: Rule, rows: int, cols: int) -> int:
    """Columns of a step of Krylov's method, 0 where a Gram matrix or SVD takes no longer."""
    short = min(rows, cols)
    width = width_of(rule.rank) if rule.rank is not None else _ADAPTIVE
    return width if 6 * width <= short else 0


def _is_small(rows: int, cols: int) -> bool:
    return min(rows, cols) <= _SMALL_SIDE and rows * cols <= _SMALL


def held_bytes(rule: Rule, rows: int, cols: int) -> int:
    """Memory that `find_directions` takes at most beside blocks, in bytes."""
    short, width = min(rows, cols), _few(rule, rows, cols)
    if _is_small(rows, cols):
        return 3 * 8 * rows * cols
    steps = min(_MOST_STEPS, short // (2 * width) + 1) if width else 0
    krylov = 8 * width * (short * (steps + 6) + 3 * cols)
    dense = 5 * 8 * short * short + (4 * rows * cols + 16 * cols * short if cols > rows else 8 * cols * short)
    return krylov if width and rule.rank is not None else max(krylov, dense)


def find_directions(reader: RowReader, rule: Rule, kernels: FactorKernels, key: int) -> Directions:
    """The directions that `rule` keeps. `key` seeds the start of the iteration.

    The error of a truncation to a fixed rank is within 1e-4, relatively, of the least possible one, down to the
    rounding of float32. Raises what reading raises.
    """
    squares = reader.scaled_squares
    if squares == 0.0:
        return Directions(np.zeros(0), np.zeros((reader.cols, 0)), 0.0, 0.0, "zero", 1)
    found = None
    if _is_small(reader.rows, reader.cols):
        found = _of_svd(reader, rule, squares)
    elif width := _few(rule, reader.rows, reader.cols):
        found = _Krylov(reader, kernels, width, key).run(rule, squares)
    found = found or _of_gram(reader, rule, kernels, squares)
    e = reader.exponent
    values, left = np.ldexp(found.values, e), ldexp(found.left, 2 * e)
    return Directions(values, found.vectors, reader.squares, left, found.method, found.readings, found.wide)


def _kept(rule: Rule, values: F64Array, squares: float) -> int:
    """How many directions: those of the rule, without those that are rounding."""
    rank = rule.choose(np.square(values), squares)
    return max(1, min(rank, int(np.count_nonzero(values > _NUMERICAL_RANK * values[0]))))


def _of_svd(reader: RowReader, rule: Rule, squares: float) -> Directions:
    _, values, rows = np.linalg.svd(reader.on_host(), full_matrices=False)
    rank = _kept(rule, values, squares)
    left = float(np.square(values[rank:]).sum())
    return Directions(values[:rank], rows[:rank].T, squares, left, "svd", 2, left < _WIDE * squares)


def _of_gram(reader: RowReader, rule: Rule, kernels: FactorKernels, squares: float) -> Directions:
    wide_matrix = reader.cols > reader.rows
    if wide_matrix:
        total = kernels.row_gram(reader.all_scaled())
    else:
        total = kernels.total(reader.cols, reader.cols)
        for block in reader.scaled():
            kernels.add_gram(block, total)
    eigenvalues, vectors = kernels.eigen(total)
    del total
    every = np.maximum(eigenvalues[::-1], 0.0)
    rank = _kept(rule, np.sqrt(every), squares)
    left = float(every[rank:][::-1].sum())
    found = np.ascontiguousarray(vectors[:, ::-1][:, :rank])
    del vectors
    readings = 2
    if wide_matrix:  # from the left singular vectors to the right ones
        lifted, first = kernels.total(reader.cols, rank), 0
        for block in reader.scaled():
            kernels.add_lifted(block, kernels.send(found[first : first + len(block)], wide=True), lifted)
            first += len(block)
        orthogonal, triangle = np.linalg.qr(kernels.fetch(lifted))
        found = orthogonal * np.where(np.diagonal(triangle) < 0, -1.0, 1.0)
        readings = 3
    return Directions(np.sqrt(every[:rank]), found, squares, left, "gram", readings, left < _WIDE * squares)


class _Krylov:
    """One matrix's iteration on the Gram matrix of its shorter side: an orthonormal basis that grows by `width` columns
    a step, and what the Gram matrix is in it.
    """

    def __init__(self, reader: RowReader, kernels: FactorKernels, width: int, key: int) -> None:
        self._reader, self._kernels, self._width = reader, kernels, width
        self._by_rows = reader.cols > reader.rows
        self._side = min(reader.rows, reader.cols)
        self._wide = False
        self._readings = 1
        most = width * min(_MOST_STEPS, self._side // (2 * width) + 1)
        self._room = np.empty((self._side, most), order="F")
        self._count = 0
        self._gram = np.zeros((most, most))  # of the basis
        self._next = _signs(key, self._side, width)

    @property
    def _basis(self) -> F64Array:
        return self._room[:, : self._count]

    def run(self, rule: Rule, squares: float) -> Directions | None:
        """The directions, or None where a Gram matrix would be the better way."""
        self._next = self._orthogonal(self._sketch(self._next))
        before: F64Array | None = None
        gain_before = 0.0
        for step in range(_MOST_STEPS):
            if 2 * (self._count + self._width) > self._side:
                return None
            self._grow()
            values = np.maximum(np.linalg.eigvalsh(self._gram[: self._count, : self._count])[::-1], 0.0)
            rank = rule.choose(values, squares)
            if rule.rank is None and rank > self._width - 8:
                left = squares - float(values[: self._width - 8].sum())
                if step and left > _HOPELESS * float(rule.left or 0.0) * squares:
                    return None
                before = values
                continue
            held = float(values[:rank].sum())
            left = max(squares - held, 0.0)
            if not self._wide and left < _WIDE * squares:
                self._widen()
                before, gain_before = None, 0.0
                continue
            gain = squares if before is None else held - float(before[:rank].sum())
            if _further(gain, gain_before) <= _TOLERANCE * left + _FLOOR * squares:
                if rule.rank is None and _is_close(rule, values[: rank - 1], squares):
                    return None  # whether one direction less would do is told by exact values alone
                return self._finish(rule, squares)
            before, gain_before = values, 0.0 if before is None else gain
        return None

    def _grow(self) -> None:
        """One step: the newest columns join the basis, and those that follow from their image come next."""
        first, self._count = self._count, self._count + self._width
        self._room[:, first : self._count] = self._next
        image = self._sketch(self._next)
        inner = self._basis.T @ image
        self._gram[: self._count, first : self._count] = inner
        self._gram[first : self._count, : self._count] = inner.T
        self._next = self._orthogonal(image - self._basis @ inner)

    def _widen(self) -> None:
        """Take the products in float64 from here on, those of the basis once more."""
        self._wide = True
        image = self._sketch(self._basis)
        inner = self._basis.T @ image
        self._gram[: self._count, : self._count] = (inner + inner.T) / 2
        self._next = self._orthogonal(image[:, -self._width :])

    def _sketch(self, panel: F64Array) -> F64Array:
        """The Gram matrix of the shorter side times the panel."""
        if self._by_rows:
            lifted = self._kernels.send(self._lift(panel), wide=self._wide)
            self._readings += 2
            images = [self._kernels.image(block, lifted) for block in self._reader.scaled()]
            return np.concatenate(images).astype(np.float64)
        sent, total = self._kernels.send(panel, wide=self._wide), self._kernels.total(self._side, panel.shape[1])
        for block in self._reader.scaled():
            self._kernels.add_sketch(block, sent, total)
        self._readings += 1
        return self._kernels.fetch(total)

    def _lift(self, panel: F64Array) -> F64Array:
        """D^T panel, for a panel [m, b]."""
        total, first = self._kernels.total(self._reader.cols, panel.shape[1]), 0
        for block in self._reader.scaled():
            rows = self._kernels.send(panel[first : first + len(block)], wide=self._wide)
            self._kernels.add_lifted(block, rows, total)
            first += len(block)
        return self._kernels.fetch(total)

    def _orthogonal(self, columns: F64Array) -> F64Array:
        """Orthonormal columns of the same space without the basis; twice is enough (Giraud et al. 2005)."""
        for _ in range(2):
            columns = np.linalg.qr(columns - self._basis @ (self._basis.T @ columns))[0]
        return columns

    def _finish(self, rule: Rule, squares: float) -> Directions:
        """The singular values and vectors in the leading part of the basis, from D itself rather than its square."""
        turns = np.linalg.eigh(self._gram[: self._count, : self._count])[1]
        panel = self._basis @ turns[:, : -self._width - 1 : -1]
        panel = np.linalg.qr(self._lift(panel) if self._by_rows else panel)[0]
        sent, total = self._kernels.send(panel, wide=self._wide), self._kernels.total(self._width, self._width)
        for block in self._reader.scaled():
            self._kernels.add_image_gram(block, sent, total)
        values, turns = np.linalg.eigh(self._kernels.fetch(total))
        every, turns = np.maximum(values[::-1], 0.0), turns[:, ::-1]
        rank = _kept(rule, np.sqrt(every), squares)
        left = max(squares - float(every[:rank].sum()), 0.0)
        readings = self._readings + 1 + self._by_rows
        return Directions(np.sqrt(every[:rank]), panel @ turns[:, :rank], squares, left, "krylov", readings, self._wide)


def _further(gain: float, gain_before: float) -> float:
    """What all further steps will gain, if gains go on to fall as they did; as much as the last one at its second."""
    ratio = min(gain / gain_before, 0.95) if gain_before > 0.0 else 0.5
    return gain * ratio / (1 - ratio)


def _is_close(rule: Rule, values: F64Array, squares: float) -> bool:
    """Whether these squares of singular values leave so nearly what the rule allows that rounding may decide."""
    left, allowed = squares - float(values.sum()), float(rule.left or 0.0) * squares
    return left <= allowed * (1 + 4 * _TOLERANCE) + _FLOOR * squares


def _signs(key: int, rows: int, cols: int) -> F64Array:
    """1 and -1 [rows, cols] by splitmix64 of the element's number and the key."""
    x = np.arange(1, rows * cols + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    signs: F64Array = np.where((x ^ (x >> np.uint64(31))) >> np.uint64(63), 1.0, -1.0).reshape(rows, cols)
    return signs
