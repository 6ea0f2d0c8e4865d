"""Bounds of the rounding error of sums in float64: below them a small result cannot be told from 0.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 3.1 and 4.2.
"""

from __future__ import annotations

from netweight.kernels.protocol import CHUNK

__all__ = ["cosine_error", "gamma"]

_UNIT = 2.0**-53


def gamma(roundings: int) -> float:
    """gamma_k = k u / (1 - k u), u = 2^-53: bounds the relative error of a product of k factors 1 + d, abs(d) <= u.

    In whatever order a sum is formed, its error is at most gamma_k times the sum of its terms' magnitudes, where no
    term passes through more than k roundings.
    """
    return roundings * _UNIT / (1 - roundings * _UNIT)


def cosine_error(terms: int) -> float:
    """A bound of the error of <x, y> / sqrt(<x, x>) / sqrt(<y, y>), each a sum of `terms` products as kernels form it:
    the chunks one after the other, their own products in any order.

    A product passes through k = min(terms, CHUNK) + ceil(terms / CHUNK) roundings. The error of <x, y> is gamma_k
    |x| |y|, since sum abs(x_i y_i) is no larger than that; those of the norms are half of gamma_k each; two roots and
    two divisions follow. What is linear in cosines with coefficients c_i c_j has the error (sum abs(c_i))^2 times
    this: so the length of sum c_i u_i, u_i unit vectors, is known to sum abs(c_i) times its square root.
    """
    roundings = min(terms, CHUNK) + -(-terms // CHUNK)
    return gamma(2 * roundings + 4)
