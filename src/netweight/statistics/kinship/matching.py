"""Units of two models set against each other without trusting their order: MATCH and SPEARMAN of arXiv 2502.12292.

What is matched twice, by two kinds of weights that know nothing of each other, agrees only by chance where the models
are independent: once of all units for a match one by one. Agreement is not exact in the paper's sense (training
couples the two kinds); the zoo in examples/zoo shows how it spreads for independent models.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from netweight.kernels.arrays import F64Array
from netweight.statistics.kinship.independence import log_normal_tail, log_poisson_tail

__all__ = ["Agreement", "agreement", "assigned", "mutual", "spearman"]

Indices = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True)
class Agreement:
    """Of `units` matched by two kinds of weights, `agreed` have one partner by both; `log10_p` of so many by chance."""

    agreed: int
    units: int
    expected: float
    log10_p: float

    @property
    def share(self) -> float:
        """Of the units, 0 to 1."""
        return self.agreed / self.units if self.units else 0.0


def assigned(similarity: F64Array) -> Indices:
    """The column of each row in the assignment one by one that maximises the sum; needs scipy, and rows <= columns."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - an extra

    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1])


def mutual(similarity: F64Array) -> Indices:
    """The column that is nearest to each row and whose nearest row it is; -1 where there is none."""
    nearest, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
    return np.where(back[nearest] == np.arange(len(nearest)), nearest, -1)


def agreement(first: Indices, second: Indices, columns: int) -> Agreement:
    """How often two matches of the same rows with `columns` candidates name one partner; -1 is none.

    A partner may be popular in both matches: chance is what shuffling one of them against the other gives on average,
    sum over k of n1(k) n2(k) / n, and at least n / columns. Few agreements among many rows are Poisson.
    """
    held = (first >= 0) & (second >= 0)
    n = int(held.sum())
    if not n:
        return Agreement(0, len(first), 0.0, 0.0)
    one, two = first[held], second[held]
    popular = np.bincount(one, minlength=columns).astype(float) @ np.bincount(two, minlength=columns).astype(float)
    expected = max(float(popular) / n, n / columns)
    agreed = int((one == two).sum())
    return Agreement(agreed, len(first), expected, float(log_poisson_tail(agreed, expected) / log(10)))


def spearman(first: Indices, second: Indices) -> tuple[float, float]:
    """(rank correlation, log10 of its one-sided p) of two matches of the same rows; needs scipy below 30 deviations.

    Student's t with n - 2 degrees of freedom, as in the paper.
    """
    from scipy.stats import spearmanr  # noqa: PLC0415 - an extra
    from scipy.stats import t as student  # noqa: PLC0415

    n = len(first)
    if n < 3:
        return 0.0, 0.0
    rho = float(spearmanr(first, second).statistic)
    if rho >= 1 - 1e-12:
        return 1.0, -float(sum(np.log10(np.arange(1, n + 1))))  # one order of n! is the same
    value = rho * np.sqrt((n - 2) / (1 - rho * rho))
    tail = float(student.logsf(value, n - 2))
    return rho, (tail if np.isfinite(tail) else log_normal_tail(float(value))) / log(10)
