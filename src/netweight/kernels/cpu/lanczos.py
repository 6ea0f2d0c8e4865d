"""The largest eigenvalues of a Gram matrix by Lanczos' method (ARPACK), with the residuals that bound their error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netweight.kernels.arrays import F64Array
from netweight.kernels.cpu.lapack import times

__all__ = ["Pairs", "largest", "worth_it"]

_SHARE = 16  # of the short side: with more values asked for, all of them take no longer
_LEAST = 128  # short sides below this take no time either way
_TOLERANCE = 1e-12


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


def largest(gram: F64Array, count: int) -> Pairs | None:
    """The `count` largest eigenvalues of the symmetric [n, n] matrix in the lower triangle, which is kept.

    None where the iteration does not converge.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh  # noqa: PLC0415 - few runs need it

    n = len(gram)
    start = np.random.default_rng(0).standard_normal(n)
    operator = LinearOperator((n, n), matvec=lambda v: times(gram, v.reshape(-1)), dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=count, which="LA", v0=start, tol=_TOLERANCE, ncv=max(2 * count + 1, 32))
    except ArpackNoConvergence:
        return None
    order = np.argsort(values)[::-1]
    residuals = [np.linalg.norm(times(gram, vectors[:, i]) - values[i] * vectors[:, i]) for i in order]
    return Pairs(np.maximum(values[order], 0.0), float(max(residuals)))
