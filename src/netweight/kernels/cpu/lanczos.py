"""The largest eigenvalues of a Gram matrix by Lanczos' method, with the residuals that bound their error.

With thick restarts (Wu and Simon 2000, SIAM J. Matrix Anal. Appl. 22, 2), which equal the implicit ones of ARPACK, and
every new vector made orthogonal to all before it, twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netweight.kernels.arrays import F64Array
from netweight.kernels.cpu.lapack import times

__all__ = ["Pairs", "basis_bytes", "largest", "worth_it"]

_SHARE = 16  # of the short side: with more values asked for, all of them take no longer
_LEAST = 128  # short sides below this take no time either way
_TOLERANCE = 1e-12  # of a value, for the norm of its residual
_EPS = float(np.finfo(np.float64).eps)
_RESTARTS = 300


@dataclass(frozen=True, eq=False)
class Pairs:
    """values: float64 [k] descending; residual: the largest |G v - lambda v| of their unit vectors.

    Within the residual of each value there is an eigenvalue. That none between them was missed is certain but for start
    vectors without any part in its direction; the fixed one is random.
    """

    values: F64Array
    residual: float


def worth_it(leading: int | None, short: int) -> bool:
    """Whether so few values are asked for that not all need be computed."""
    return leading is not None and short >= _LEAST and _SHARE * leading <= short


def _steps(count: int) -> int:
    """Vectors of a basis before a restart."""
    return max(2 * count + 8, 32)


def basis_bytes(leading: int, short: int) -> int:
    """Memory that `largest` takes, in bytes."""
    return 8 * short * (_steps(leading) + 2 * leading + 8)


def largest(gram: F64Array, count: int) -> Pairs | None:
    """The `count` largest eigenvalues of the symmetric [n, n] matrix in the lower triangle, which is kept.

    `count`: such that it is `worth_it`. None where the iteration does not converge.
    """
    n = len(gram)
    steps = _steps(count)
    random = np.random.default_rng(0)
    basis = np.zeros((steps + 1, n))
    basis[0] = random.standard_normal(n)
    basis[0] /= np.linalg.norm(basis[0])
    kept = 0  # Ritz vectors of the restart, at the basis' start
    ritz = np.zeros(steps)
    for _ in range(_RESTARTS):
        before, projected, new_starts = ritz, np.zeros((steps, steps)), 0
        projected[np.diag_indices(kept)] = ritz[:kept]
        for step in range(kept, steps):
            product = times(gram, basis[step])
            size = float(np.linalg.norm(product))
            parts = _orthogonalise(product, basis[: step + 1])
            projected[step, : step + 1] = projected[: step + 1, step] = parts
            rest = float(np.linalg.norm(product))
            if rest <= 8 * _EPS * size:  # the vectors so far span all that the start has a part in: go on elsewhere
                rest, product, new_starts = 0.0, random.standard_normal(n), new_starts + 1
                _orthogonalise(product, basis[: step + 1])
            basis[step + 1] = product / np.linalg.norm(product)
        ritz, vectors = (part[..., ::-1] for part in np.linalg.eigh(projected))
        estimates = np.abs(rest * vectors[-1, :count])
        near = np.maximum(_TOLERANCE * ritz[:count], _EPS * ritz[0])
        # One start finds one vector of an eigenvalue that has several: others may bring more of them.
        settled = not new_starts or (np.abs(ritz - before)[:count] <= near).all()
        if settled and (estimates <= near).all():
            found = np.ascontiguousarray(vectors[:, :count].T) @ basis[:steps]
            residuals = [np.linalg.norm(times(gram, v) - value * v) for v, value in zip(found, ritz, strict=False)]
            return Pairs(np.maximum(ritz[:count], 0.0), float(max(residuals)))
        kept = count + (steps - count) // 2
        basis[:kept] = np.ascontiguousarray(vectors[:, :kept].T) @ basis[:steps]
        basis[kept] = basis[steps]
    return None


def _orthogonalise(vector: F64Array, basis: F64Array) -> F64Array:
    """Take from `vector` [n], in place, its parts along the rows of `basis`, and return them."""
    parts = basis @ vector
    vector -= parts @ basis
    again: F64Array = basis @ vector
    vector -= again @ basis
    return np.asarray(parts + again)
