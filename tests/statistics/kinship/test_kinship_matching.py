"""Matching units without their order, and undoing orders, signs and rotations; against scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from netweight.statistics.kinship.alignment import columns_of, columns_without_order, rotation, unbiased_cka
from netweight.statistics.kinship.matching import agreement, assigned, mutual, spearman


def rng(seed=0):
    return np.random.default_rng(seed)


def test_ranks_correlate_as_scipy_says() -> None:
    chance = rng(3)
    first = chance.permutation(60)
    for second in (chance.permutation(60), np.where(np.arange(60) < 40, first, chance.permutation(60))):
        rho, log10_p = spearman(first, second)
        known = stats.spearmanr(first, second, alternative="greater")
        assert rho == pytest.approx(known.statistic)
        assert 10**log10_p == pytest.approx(known.pvalue, rel=1e-6)
    assert spearman(first, first) == (1.0, pytest.approx(-stats.norm.logsf(0) * 0 - np.log10(np.arange(1, 61)).sum()))


def test_agreement_of_matches_that_know_nothing_of_each_other_is_chance() -> None:
    chance = rng(5)
    logs = [agreement(chance.permutation(80), chance.permutation(80), 80).log10_p for _ in range(400)]
    assert min(logs) > -5
    assert 0.1 < np.mean(np.array(logs) == 0) < 0.6  # none agree in exp(-1) of the cases
    copied = agreement(np.arange(80), np.arange(80), 80)
    assert copied.share == 1
    assert copied.log10_p < -110


def test_a_partner_that_all_like_is_no_evidence() -> None:
    """Half of the units are nearest to one popular unit, by both kinds of weights: 25 of 100 agree, by chance."""
    chance = rng(1)
    first, second = (np.where(chance.random(100) < 0.5, 7, chance.integers(0, 100, 100)) for _ in range(2))
    found = agreement(first, second, 100)
    assert found.agreed > 15
    assert found.log10_p > -3
    assert agreement(np.full(5, -1), np.arange(5), 5).log10_p == 0


def test_one_by_one_is_the_best_sum() -> None:
    similarity = rng(2).standard_normal((5, 7))
    from itertools import permutations

    best = max(permutations(range(7), 5), key=lambda order: similarity[np.arange(5), list(order)].sum())
    assert assigned(similarity).tolist() == list(best)
    assert mutual(np.array([[3.0, 2.9], [1.0, 2.0]])).tolist() == [0, -1]


def test_columns_are_found_in_any_order_and_with_any_sign() -> None:
    chance = rng(4)
    a = chance.standard_normal((96, 40)).astype("f4") + chance.standard_normal(40).astype("f4")
    order, signs = chance.permutation(40), np.where(chance.random(40) < 0.5, -1.0, 1.0)
    b = (a[:, order] * signs + 0.2 * chance.standard_normal((96, 40))).astype("f4")
    for found in (columns_without_order(a, b), columns_of(a, b)):
        assert found.of.tolist() == order.tolist()
        assert found.signs.tolist() == signs.tolist()
        assert found.test.log10_p < -40
        assert not found.in_order
    assert columns_without_order(a, a).in_order
    narrower = columns_of(a, b[:, :25])
    assert narrower.of.tolist() == order[:25].tolist()
    independent = columns_without_order(a, chance.standard_normal((96, 40)).astype("f4"))
    assert independent.test.log10_p > -4


def test_a_rotation_is_undone() -> None:
    chance = rng(6)
    a = chance.standard_normal((200, 24))
    q = np.linalg.qr(chance.standard_normal((24, 24)))[0]
    found, explained = rotation(a.astype("f4"), (3 * a @ q).astype("f4"))
    np.testing.assert_allclose(found, q, atol=1e-5)
    assert explained == pytest.approx(1, abs=1e-6)
    assert rotation(a.astype("f4"), chance.standard_normal((200, 24)).astype("f4"))[1] < 0.4


def naive_cka(x, y):
    """Song et al. 2012, equation 5, by loops over indices that differ from each other."""

    def hsic(k, l):
        n = len(k)
        idx = range(n)
        pair = sum(k[i, j] * l[i, j] for i in idx for j in idx if i != j) / (n * (n - 1))
        four = sum(
            k[i, j] * l[q, r]
            for i in idx for j in idx for q in idx for r in idx
            if len({i, j, q, r}) == 4
        ) / (n * (n - 1) * (n - 2) * (n - 3))  # fmt: skip
        three = sum(
            k[i, j] * l[i, q] for i in idx for j in idx for q in idx if len({i, j, q}) == 3
        ) / (n * (n - 1) * (n - 2))  # fmt: skip
        return pair + four - 2 * three

    k, l = x @ x.T, y @ y.T
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def test_alignment_of_kernels_is_that_of_its_definition() -> None:
    chance = rng(8)
    x = chance.standard_normal((7, 3))
    y = x @ chance.standard_normal((3, 4)) + 0.3 * chance.standard_normal((7, 4))
    assert unbiased_cka(x, y) == pytest.approx(naive_cka(x, y), rel=1e-9)


def test_alignment_knows_no_order_of_features_no_scale_and_no_map_of_heads() -> None:
    chance = rng(9)
    x = chance.standard_normal((128, 64))
    q = np.linalg.qr(chance.standard_normal((64, 64)))[0]
    assert unbiased_cka(x, 1e-4 * x @ q) == pytest.approx(1, abs=1e-9)
    assert unbiased_cka(x, x + 0.5 * chance.standard_normal((128, 64))) > 0.5
    assert abs(unbiased_cka(x, chance.standard_normal((128, 64)))) < 0.05
    assert np.isnan(unbiased_cka(np.zeros((8, 3)), x[:8]))
