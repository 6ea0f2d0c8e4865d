"""How many floating-point operations a job takes, as the kernels do it: a multiplication and an addition are two.

Counting bit patterns takes none, and is left at 0. Numbers for an element are nominal: what a loop does to a value that
is finite, without loads, stores and comparisons.
"""

from __future__ import annotations

from math import log

__all__ = [
    "BAND",
    "CHANNELS",
    "PAIRS",
    "TWO_STAGES",
    "WIDE_VALUES",
    "differences_flops",
    "eigenvalue_flops",
    "gram_flops",
    "kmeans_flops",
    "merge_flops",
    "norms_flops",
    "seeding_flops",
]

TWO_STAGES, BAND = 1024, 48
"""Columns from which eigenvalues are found by way of a band, and its subdiagonals: those of kernels/cpu/lapack.py."""

WIDE_VALUES = 8
"""An element of 32 or 64 bits: the sums of four powers."""

CHANNELS = 6
"""An element, for what is known of rows, columns and groups of columns: magnitude, square, their sums."""

PAIRS = 16
"""A pair of elements: difference, quotient, three means, three squares, a product, their sums."""


def gram_flops(short: int, long: int) -> int:
    """The Gram matrix of the short side: one triangle with its diagonal, short (short + 1) / 2 inner products of
    `long` products each. A whole matrix product would take 2 long short^2, twice as many.
    """
    return short * (short + 1) * long


def eigenvalue_flops(short: int) -> int:
    """All eigenvalues of a symmetric matrix without vectors: 4/3 n^3 to tridiagonal form (Golub and Van Loan, Matrix
    Computations, 8.3), from TWO_STAGES columns on 6 BAND n^2 more from the band (Lang 1993), about 10 n^2 for the QR
    iteration without roots (LAPACK's dsterf: some two sweeps a value, over half of the values on average).
    """
    band = 6 * BAND * short**2 if short >= TWO_STAGES else 0
    return 4 * short**3 // 3 + band + 10 * short**2


def differences_flops(models: int) -> int:
    """An element of the base: a difference to each model, a product and a sum for each two, the base's square."""
    return models + models * (models - 1) + 2


def norms_flops(models: int) -> int:
    """An element of the base, for the Gram matrix of the task vectors."""
    return models + models * (models + 1)


def merge_flops(inputs: int) -> int:
    """An element of the output: every input times a factor, added up. What a method looks at before comes on top."""
    return 2 * inputs + 1


def kmeans_flops(rows: int, cols: int, k: int) -> int:
    """One look of k-means: the products of all rows with all centres."""
    return 2 * rows * cols * k


def seeding_flops(rows: int, cols: int, k: int) -> int:
    """k-means++ with scikit-learn's 2 + ln k candidates for each centre."""
    return 2 * rows * cols * k * (2 + int(log(k)))
