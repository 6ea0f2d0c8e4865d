"""P-values of independence: against all permutations, against scipy, and uniform where nothing is shared."""

from __future__ import annotations

from itertools import permutations
from math import factorial, log

import mpmath
import numpy as np
import pytest
from scipy import stats

from netweight.statistics.kinship.independence import (
    cosines,
    fisher,
    fisher_logs,
    log_normal_tail,
    log_poisson_tail,
    unit_test,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def every(similarity):
    """The statistic of every permutation."""
    n = len(similarity)
    return np.array([similarity[np.arange(n), list(order)].sum() for order in permutations(range(n))])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_share_of_all_permutations(seed) -> None:
    similarity = rng(seed).standard_normal((6, 6)) + np.eye(6) * seed / 3
    found = unit_test(similarity, 20_000, rng(seed))
    sums = every(similarity)
    exact = float((sums >= np.trace(similarity) - 1e-12).mean())
    assert found.p == pytest.approx(
        exact, abs=4 * np.sqrt(exact * (1 - exact) / min(found.permutations, 20_000)) + 1e-3
    )
    assert found.z == pytest.approx((np.trace(similarity) - sums.mean()) / (sums.std() * np.sqrt(1)), rel=1e-9)


def test_it_stops_where_enough_is_known_and_goes_on_where_it_is_not() -> None:
    apart, alike = rng(1).standard_normal((40, 16)), rng(2).standard_normal((40, 16))
    unrelated = unit_test(cosines(apart.astype("f4"), alike.astype("f4")), 99_999, rng(0))
    assert unrelated.permutations < 20_000
    assert unrelated.p == 200 / unrelated.permutations
    copied = unit_test(cosines(apart.astype("f4"), apart.astype("f4")), 9_999, rng(0))
    assert (copied.p, copied.permutations) == (1e-4, 9_999)
    assert copied.z > 10


def test_p_is_uniform_for_independent_models_whatever_their_rows_share() -> None:
    """Rows of each model have a common direction and lengths of their own: exchangeable, and nothing else."""
    chance = rng(7)
    ps, together = [], []
    for _ in range(150):
        layers = []
        for _ in range(3):
            a, b = (chance.standard_normal((24, 32)) * chance.lognormal(0, 1, (24, 1)) + 2 * chance.standard_normal(32)
                    for _ in range(2))  # fmt: skip
            layers.append(unit_test(cosines(a.astype("f4"), b.astype("f4")), 9_999, chance).p)
        ps += layers
        together.append(10 ** fisher(layers))
    assert stats.kstest(ps, "uniform").pvalue > 1e-3
    assert stats.kstest(together, "uniform").pvalue > 1e-3


def test_rows_without_a_direction_are_like_none() -> None:
    rows = np.array([[0, 0], [3, 4], [np.nan, 1], [1e-30, 0]], "f4")
    found = cosines(rows, rows)
    assert found[0].tolist() == [0, 0, 0, 0]
    assert found[1, 1] == pytest.approx(1)
    assert found[3, 1] == pytest.approx(0.6)
    assert np.isfinite(found).all()
    assert unit_test(np.zeros((8, 8)), 999, rng()).p == 1.0
    assert unit_test(np.zeros((8, 8)), 999, rng()).z == 0.0


def test_tails_are_those_of_scipy() -> None:
    ps = [0.3, 0.02, 0.5, 1e-5, 0.9]
    assert 10 ** fisher(ps) == pytest.approx(stats.combine_pvalues(ps)[1], rel=1e-9)
    assert fisher([1.0, 1.0]) == 0
    assert fisher([]) == 0
    # far below what a float holds
    with mpmath.workdps(60):
        half = 5000 * mpmath.log(10)
        exact = mpmath.log10(mpmath.gammainc(10, half, regularized=True))
    assert fisher_logs([-500.0] * 10) == pytest.approx(float(exact), rel=1e-9)
    for count, mean in ((1, 0.5), (3, 1.0), (40, 1.0), (7, 12.5), (0, 2.0)):
        assert log_poisson_tail(count, mean) == pytest.approx(stats.poisson.logsf(count - 1, mean), rel=1e-9, abs=1e-12)
    assert log_poisson_tail(512, 1.0) == pytest.approx(-1 - sum(log(k) for k in range(1, 513)), rel=1e-4)
    for z in (-2.0, 0.0, 5.0, 29.9, 30.1, 200.0):
        assert log_normal_tail(z) == pytest.approx(stats.norm.logsf(z), rel=2e-3, abs=1e-9)


def test_fixed_points_of_a_random_match_are_as_rare_as_rencontres_say() -> None:
    """Orders of n with k fixed points or more are as rare as a Poisson variable of mean 1 is large."""
    for n, k in ((6, 3), (7, 4)):
        fixed = sum(sum(i == at for at, i in enumerate(order)) >= k for order in permutations(range(n)))
        assert log_poisson_tail(k, 1.0) >= log(fixed / factorial(n)) - 0.05
