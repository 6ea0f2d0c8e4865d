"""F of a partition against scikit-learn and scipy, and that parts merge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import f_oneway
from sklearn.metrics import calinski_harabasz_score

from netweight.statistics.partition import Partition


def partition(x: np.ndarray, labels: np.ndarray, k: int) -> Partition:
    sums = np.stack([x[labels == i].sum(axis=0) for i in range(k)])
    return Partition(np.bincount(labels, minlength=k), sums, float((x**2).sum()))


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 700)
    return rng.standard_normal((700, 9)) + labels[:, None] * 0.3 + 4, labels


def test_f_is_that_of_calinski_and_harabasz(made) -> None:
    x, labels = made
    assert partition(x, labels, 5).f_ratio() == pytest.approx(calinski_harabasz_score(x, labels), rel=1e-10)


def test_in_one_column_f_is_that_of_f_oneway(made) -> None:
    x, labels = made
    for column in range(x.shape[1]):
        one = x[:, [column]]
        expected = f_oneway(*(one[labels == i, 0] for i in range(5))).statistic
        assert partition(one, labels, 5).f_ratio() == pytest.approx(expected, rel=1e-9)


def test_sums_of_squares_are_those_of_f_oneway_summed_over_columns(made) -> None:
    x, labels = made
    found = partition(x, labels, 5)
    groups = [x[labels == i] for i in range(5)]
    within = sum(((g - g.mean(axis=0)) ** 2).sum() for g in groups)
    assert found.within_ss == pytest.approx(within, rel=1e-12)
    assert found.total_ss == pytest.approx(((x - x.mean(axis=0)) ** 2).sum(), rel=1e-12)
    assert found.between_ss == pytest.approx(found.total_ss - within, rel=1e-10)


def test_parts_merge(made) -> None:
    x, labels = made
    parts = partition(x[:100], labels[:100], 5).merge(partition(x[100:], labels[100:], 5))
    whole = partition(x, labels, 5)
    assert (parts.counts == whole.counts).all()
    assert parts.f_ratio() == pytest.approx(whole.f_ratio(), rel=1e-12)


def test_nothing_within_and_nothing_at_all() -> None:
    x = np.repeat(np.array([[1.0, 2.0], [5.0, 6.0]]), 4, axis=0)
    assert partition(x, np.repeat([0, 1], 4), 2).f_ratio() == math.inf
    assert math.isnan(partition(np.ones((8, 2)), np.repeat([0, 1], 4), 2).f_ratio())
    assert math.isnan(partition(x, np.zeros(8, int), 2).f_ratio())  # one cluster holds all


def summed_one_by_one(x: np.ndarray, labels: np.ndarray, k: int) -> Partition:
    """Sums in the order of the rows, so that equal rows are always rounded to the same side."""
    sums = np.stack([np.cumsum(x[labels == i], axis=0)[-1] for i in range(k)])
    return Partition(np.bincount(labels, minlength=k), sums, float((x**2).sum()))


@pytest.mark.parametrize("rows", [10, 1000, 10**6])
@pytest.mark.parametrize("part", [-0.3, -1e-3, 0.0, 1e-3, 0.3])
def test_what_rounding_leaves_of_many_equal_rows_is_nothing(rows: int, part: float) -> None:
    labels = np.arange(rows) % 2
    for apart in (0.0, 1.0):
        found = summed_one_by_one(np.array([[0.1, 0.3], [0.1 + apart, 0.3]])[labels], labels, 2)
        error = part * rows * 2.0**-53  # of sums in another order
        found = Partition(found.counts, found.sums * (1 + error), found.squares)
        assert found.within_ss == 0
        assert found.f_ratio() == (math.inf if apart else pytest.approx(math.nan, nan_ok=True))
        assert found.total_ss == pytest.approx(rows / 4 * apart, rel=1e-8)


def test_an_empty_cluster_keeps_its_centre_and_does_not_count() -> None:
    x = np.random.default_rng(0).standard_normal((40, 3))
    labels = np.repeat([0, 2], 20)
    found = partition(x, labels, 3)
    assert found.f_ratio() == pytest.approx(calinski_harabasz_score(x, labels), rel=1e-10)
    means = found.means(np.full((3, 3), 7.0))
    assert (means[1] == 7).all()
    assert means[2] == pytest.approx(x[20:].mean(axis=0))
