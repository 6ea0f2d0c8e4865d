"""What is known of scale * left @ right from its factors alone: norm, inner products, singular values, the angles to
another. Everything is float64, and the product is never made.

The Frobenius inner product of L R and M S is the sum of (L^T M) * (R S^T), element by element; singular values of L R
are those of the small matrix of both QR decompositions (Golub and Van Loan, Matrix Computations, 5.2 and 6.4.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from netweight.kernels.arrays import F64Array
from netweight.statistics.spectrum import EPS, Spectrum

__all__ = ["Factors", "angles", "inner", "inner_with", "norm", "spectrum", "total", "truncated"]


@dataclass(frozen=True, eq=False)
class Factors:
    """`left` [rows, r] @ `right` [r, cols], float64, the scale in `left`."""

    left: F64Array
    right: F64Array

    @classmethod
    def joined(cls, every: Sequence[Factors]) -> Factors:
        """The factors of the sum of products of one shape."""
        if len(every) == 1:
            return every[0]
        return cls(np.hstack([f.left for f in every]), np.vstack([f.right for f in every]))

    @property
    def shape(self) -> tuple[int, int]:
        """Of the product."""
        return self.left.shape[0], self.right.shape[1]


def inner(a: Factors, b: Factors) -> float:
    """The sum of the products of their elements: of one with itself, the square of its norm."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(((a.left.T @ b.left) * (a.right @ b.right.T)).sum())


def norm(factors: Factors) -> float:
    """The Frobenius norm, also where the products that it sums nearly cancel: of the small matrix of both QR
    decompositions, whose elements have the absolute error of float64.
    """
    return float(np.linalg.norm(_triangle(factors.left) @ _triangle(factors.right.T).T))


def inner_with(a: Factors, blocks: Iterable[tuple[int, F64Array]]) -> float:
    """The inner product with a dense matrix, given as (first row, rows [n, cols])."""
    summed = np.zeros((a.left.shape[1], a.right.shape[0]))
    with np.errstate(invalid="ignore", over="ignore"):
        for first, rows in blocks:
            summed += a.left[first : first + len(rows)].T @ (rows @ a.right.T)
        return float(np.trace(summed))


def total(factors: Factors) -> float:
    """The sum of the elements."""
    return float(factors.left.sum(axis=0) @ factors.right.sum(axis=1))


def spectrum(factors: Factors) -> Spectrum:
    """All singular values; those beyond the rank of the factors are exactly 0."""
    rows, cols = factors.shape
    count, square = min(rows, cols), inner(factors, factors)
    if not (np.isfinite(factors.left).all() and np.isfinite(factors.right).all()):
        return Spectrum.undefined(rows, cols, "elements that are NaN or infinite")
    if not isfinite(square):
        return Spectrum.undefined(rows, cols, "singular values beyond float64")
    small = _triangle(factors.left) @ _triangle(factors.right.T).T
    values = np.zeros(count)
    known = np.linalg.svd(small, compute_uv=False)[:count]
    values[: len(known)] = known
    zeros = count - len(known)
    return Spectrum(values, rows, cols, square, "factors", EPS * max(rows, cols), complete=True, zeros=zeros)


def _triangle(matrix: F64Array) -> F64Array:
    """R of a QR decomposition."""
    made: F64Array = np.linalg.qr(matrix).R
    return made


def truncated(factors: Factors, rank: int) -> Factors:
    """The best of rank `rank` (Eckart and Young 1936): the leading singular directions, each half in either factor."""
    left, right = np.linalg.qr(factors.left), np.linalg.qr(factors.right.T)
    u, values, v = np.linalg.svd(left.R @ right.R.T, full_matrices=False)
    roots = np.sqrt(values[:rank])
    return Factors(left.Q @ (u[:, :rank] * roots), (v[:rank] * roots[:, None]) @ right.Q.T)


def angles(a: Factors, b: Factors) -> dict[str, Any]:
    """The cosines of the principal angles between the column spaces and between the row spaces, largest first (Bjorck
    and Golub 1973), and by space the overlap: the mean of their squares over the smaller rank. 1: one lies in the
    other, 0: they are orthogonal.
    """
    found: dict[str, Any] = {}
    for name, first, second in (("column", a.left, b.left), ("row", a.right.T, b.right.T)):
        other = (a.right.T, b.right.T) if name == "column" else (a.left, b.left)
        bases = [_basis(own, beside) for own, beside in zip((first, second), other, strict=True)]
        if not all(base.shape[1] for base in bases):
            found |= {f"{name}_cosines": [], f"{name}_overlap": None}
            continue
        cosines = np.clip(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False), 0.0, 1.0)
        found |= {f"{name}_cosines": cosines.tolist(), f"{name}_overlap": float(np.square(cosines).mean())}
    return found


def _basis(factor: F64Array, beside: F64Array) -> F64Array:
    """An orthonormal basis [n, rank] of the space that the product's columns (or rows) span: `factor` [n, r] times the
    triangle of the other factor's decomposition.
    """
    if not (np.isfinite(factor).all() and np.isfinite(beside).all()):
        return np.zeros((len(factor), 0))
    spanned = factor @ _triangle(beside).T
    left, values, _ = np.linalg.svd(spanned, full_matrices=False)
    kept = values > values.max(initial=0.0) * max(spanned.shape) * EPS if len(values) else values > 0
    made: F64Array = left[:, kept & (values > 0)]
    return made
