"""The bounds of rounding hold for sums in any order, and are not idle."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from netweight.statistics.rounding_error import cosine_error, gamma


def test_gamma_is_highams():
    unit = Fraction(1, 2**53)
    for k in (1, 2, 1000, 2**30):
        assert gamma(k) == pytest.approx(float(k * unit / (1 - k * unit)), rel=1e-15)


def orders(products):
    """The sum one by one, from both ends, in pairs, by lanes."""
    yield np.cumsum(products)[-1]
    yield np.cumsum(products[::-1])[-1]
    yield products.sum()
    for lanes in (4, 8, 16):
        yield np.resize(products, (len(products) // lanes, lanes)).cumsum(axis=0)[-1].sum()


@pytest.mark.parametrize("terms", [16, 160, 4096])
def test_cosines_differ_by_no_more_than_their_error(terms):
    rng = np.random.default_rng(terms)
    x, y = rng.normal(size=terms), rng.uniform(size=terms)
    exact = sum(Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), y.tolist(), strict=True))
    norms = [sum(Fraction(a) ** 2 for a in v.tolist()) for v in (x, y)]
    wanted = float(exact) / float(norms[0]) ** 0.5 / float(norms[1]) ** 0.5
    for products, a, b in zip(orders(x * y), orders(x * x), orders(y * y), strict=True):
        assert abs(products / np.sqrt(a) / np.sqrt(b) - wanted) <= cosine_error(terms)


def test_the_error_of_a_cosine_grows_with_the_terms_and_stays_small():
    found = [cosine_error(n) for n in (0, 1, 10, 4096, 10**6, 10**9)]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert found[0] > 2.0**-53
    assert found[-1] < 1e-10
