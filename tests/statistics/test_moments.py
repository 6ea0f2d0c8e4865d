"""Moments that merge, against numpy in long double."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from netweight.statistics.moments import EMPTY, Moments


def of(values):
    unique, counts = np.unique(values, return_counts=True)
    return Moments.of_counts(unique, counts)


def check(m, x, relative=1e-9):
    wide = x.astype(np.longdouble)
    e = wide - wide.mean()
    std = float(np.sqrt((e**2).mean()))
    assert m.n == x.size
    assert (m.minimum, m.maximum, m.maxabs) == (x.min(), x.max(), np.abs(x).max())
    assert m.l1 == pytest.approx(float(np.abs(wide).sum()), rel=1e-12, abs=0)
    assert m.l2 == pytest.approx(float(np.sqrt((wide**2).sum())), rel=1e-12, abs=0)
    assert m.average == pytest.approx(float(wide.mean()), rel=1e-13, abs=1e-13 * m.l1 / x.size)
    assert m.std == pytest.approx(std, rel=relative, abs=0)
    if std:
        assert m.skew == pytest.approx(float((e**3).mean() / std**3), rel=relative, abs=relative)
        assert m.kurtosis_excess == pytest.approx(float((e**4).mean() / std**4 - 3), rel=relative, abs=relative)


@pytest.mark.parametrize("offset", [0.0, 1.0, -1e4, 1e6])
@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_parts_merge_into_the_whole(offset, parts):
    x = np.random.default_rng(parts).standard_normal(20_000) + offset
    # what a float64 mean of this offset leaves of a spread of 1
    check(reduce(Moments.merge, map(of, np.array_split(x, parts)), EMPTY), x, max(1e-9, abs(offset) * 1e-14))


def test_uneven_parts_far_from_each_other():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(n) * s + o for n, s, o in ((1, 1, 5), (10_000, 1e-3, 0), (7, 30, -100), (2, 0, 4))]
    check(reduce(Moments.merge, map(of, parts)), np.concatenate(parts))


def test_skewed_data():
    x = np.random.default_rng(1).exponential(size=10_000) ** 2
    check(reduce(Moments.merge, map(of, np.array_split(x, 9))), x)


# Thousandths, so that fourth powers stay inside float64.
numbers = st.lists(st.integers(-(10**9), 10**9).map(lambda v: v / 1000), min_size=1, max_size=30)


@given(numbers, numbers, numbers)
def test_merging_is_associative_enough(a, b, c):
    a, b, c = map(np.array, (a, b, c))
    x = np.concatenate([a, b, c])
    assume(x.std() > 1e-3 * np.abs(x).max())
    first = of(a).merge(of(b)).merge(of(c))
    second = of(a).merge(of(b).merge(of(c)))
    check(first, x, 1e-7)
    check(second, x, 1e-7)


def test_nothing():
    assert EMPTY.merge(EMPTY) is EMPTY
    one = of(np.array([2.0, 3.0]))
    assert EMPTY.merge(one) is one
    assert one.merge(EMPTY) is one
    assert (EMPTY.mean, EMPTY.m2, EMPTY.m3, EMPTY.m4) == (0, 0, 0, 0)
    assert (EMPTY.l1, EMPTY.l2, EMPTY.maxabs, EMPTY.square_sum) == (0, 0, 0, 0)
    assert all(map(math.isnan, (EMPTY.average, EMPTY.std, EMPTY.skew, EMPTY.kurtosis_excess)))
    assert Moments.of_counts(np.empty(0), np.empty(0, int)) is EMPTY
    assert Moments.of_sums(np.array([0, 0, 0, 0, 0, 0, math.inf, -math.inf])) is EMPTY


@pytest.mark.parametrize("value", [0.1, -3.0, 1e-300, 1e200, 0.0])
def test_constants_have_no_spread(value):
    m = reduce(Moments.merge, [of(np.full(n, value)) for n in (3, 1000, 7)])
    assert (m.average, m.std, m.skew, m.kurtosis_excess) == (value, 0, 0, 0)
    assert m.constant
    assert m.l2 == pytest.approx(math.sqrt(1010) * abs(value), rel=1e-12) or abs(value) in (1e200, 1e-300)


def test_squares_beyond_float64():
    m = of(np.array([1e200, -1e200, 3.0]))
    assert m.l2 == math.inf
    assert m.l1 == 2e200
    assert m.maxabs == 1e200


def test_sums_of_a_kernel():
    x = np.random.default_rng(2).standard_normal(500)
    e = x - x.mean()
    sums = [x.size, x.mean(), (e**2).sum(), (e**3).sum(), (e**4).sum(), np.abs(x).sum(), x.min(), x.max()]
    check(Moments.of_sums(np.array(sums)), x)
