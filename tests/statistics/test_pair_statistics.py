"""Statistics of pairs: what merging keeps, and what follows from the sums, against numpy in longdouble."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.kernels.pairs import PairPartial
from netweight.statistics.pairs import NOTHING, PairStatistics


def partial(a, b):
    """What a kernel would find of two float64 arrays, worked out by numpy."""
    a, b = np.asarray(a, np.longdouble), np.asarray(b, np.longdouble)
    d = b - a
    if not a.size:
        return PairPartial(0, 0, 0, 0, 0, *[0.0] * 8, math.inf, -math.inf)
    means = [v.mean() for v in (a, b, d)]
    m2 = [((v - m) ** 2).sum() for v, m in zip((a, b, d), means, strict=True)]
    return PairPartial(
        a.size,
        0,
        int((d == 0).sum()),
        int((np.abs(d) / (np.abs(a) + 1e-10) > 0.01).sum()),
        int((a * b < 0).sum()),
        *(float(v) for v in (*means, *m2, ((a - means[0]) * (b - means[1])).sum(), np.abs(d).sum(), d.min(), d.max())),
    )


def arrays(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(n) + shift
    return a, a + 0.3 * rng.standard_normal(n)


@pytest.mark.parametrize("shift", [0.0, 50.0])
@pytest.mark.parametrize("cuts", [[], [1], [500], [0, 0, 999], [10, 20, 30, 400, 1000]])
def test_stretches_give_the_whole(cuts, shift):
    a, b = arrays(1000, 0, shift)
    bounds = [0, *cuts, 1000]
    parts = [partial(a[i:j], b[i:j]) for i, j in itertools.pairwise(bounds)]
    found = PairStatistics.of_stretches(parts)
    want = PairStatistics.of(partial(a, b))
    for field in dataclasses.fields(PairStatistics):
        assert getattr(found, field.name) == pytest.approx(getattr(want, field.name), rel=1e-12, abs=1e-12), field.name


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_merging_in_another_grouping(sizes, seed):
    pieces = [arrays(n, seed + i) for i, n in enumerate(sizes)]
    one = PairStatistics.of_stretches(partial(a, b) for a, b in pieces)
    other = NOTHING
    for a, b in reversed(pieces):
        other = PairStatistics.of(partial(a, b)).merge(other)
    assert one.n == other.n == sum(sizes)
    assert one.dot == pytest.approx(other.dot, rel=1e-12, abs=1e-12)
    assert one.square_d == pytest.approx(other.square_d, rel=1e-12, abs=1e-12)
    assert (one.minimum, one.maximum, one.n_flipped) == (other.minimum, other.maximum, other.n_flipped)


def test_what_follows_from_the_sums():
    a, b = arrays(1000, 1, 3.0)
    found = PairStatistics.of(partial(a, b))
    assert found.square_a == pytest.approx((a * a).sum(), rel=1e-13)
    assert found.square_b == pytest.approx((b * b).sum(), rel=1e-13)
    assert found.square_d == pytest.approx(((b - a) ** 2).sum(), rel=1e-13)
    assert found.dot == pytest.approx((a * b).sum(), rel=1e-13)
    assert found.mean_diff == pytest.approx(b.mean() - a.mean(), abs=1e-14)
    assert found.std_diff == pytest.approx(b.std() - a.std(), abs=1e-13)
    assert found.maxabs == np.abs(b - a).max()
    assert not found.identical


def test_nothing():
    assert NOTHING.merge(NOTHING) == NOTHING
    assert PairStatistics.of_stretches([]) == NOTHING
    some = PairStatistics.of(partial(*arrays(10, 2)))
    assert some.merge(NOTHING) == NOTHING.merge(some) == some
    huge = PairStatistics.of(partial([1e200] * 3, [2e200] * 3))  # the square of a mean is beyond float64
    assert huge.merge(NOTHING) == NOTHING.merge(huge) == huge
    assert math.isnan(NOTHING.mean_diff)
    assert math.isnan(NOTHING.std_diff)
    assert (NOTHING.square_a, NOTHING.dot, NOTHING.maxabs) == (0, 0, 0)


def test_counts_of_stretches_without_finite_pairs_are_kept():
    lost = dataclasses.replace(NOTHING, n_nonfinite=7)
    some = PairStatistics.of(partial(*arrays(10, 2)))
    assert lost.merge(some) == some.merge(lost) == dataclasses.replace(some, n_nonfinite=7)


def test_equal_tensors_differ_by_nothing_whatever_rounding_did():
    a, _ = arrays(100, 3)
    rounded = dataclasses.replace(partial(a, a), mean_b=0.1, m2_b=1.0, comoment=2.0)
    found = PairStatistics.of(rounded)
    assert found.identical
    assert (found.mean_diff, found.std_diff) == (0, 0)
    assert found.square_a == found.square_b == found.dot
