"""ties, breadcrumbs and their rescaling, against sorted full arrays."""

from __future__ import annotations

import numpy as np
import pytest
from declared import ROWS, merge, models_like, same_bits

CUTS = ({"stretch": 8192, "block": 4096, "seed": 1}, {"stretch": 1 << 20, "block": 1 << 20, "seed": 2})


def top(d, share):
    """d where its magnitude is at least the floor(share * size)-th largest."""
    k = int(share * d.size + 1e-9)
    if k == 0:
        return np.zeros_like(d)
    least = np.sort(np.abs(d).ravel())[::-1][k - 1]
    return np.where(np.abs(d) >= least, d, 0)


def middle(d, share, gamma):
    """d without its top gamma and its smallest; equals of the outermost kept ones are kept."""
    n = d.size
    k = int(share * n + 1e-9)
    if k == 0:
        return np.zeros_like(d)
    cut = min(int(gamma * n + 1e-9), n - k)
    kept = np.sort(np.abs(d).ravel())[n - k - cut : n - cut]
    return np.where((np.abs(d) >= kept[0]) & (np.abs(d) <= kept[-1]), d, 0)


def summed(base, vectors, weights, *, elect, normalize, scale=1.0):
    parts = [w * v.astype(np.float64) for w, v in zip(weights, vectors, strict=True)]
    total = sum(parts)
    if not elect:
        return base + scale * total / (sum(weights) if normalize else 1)
    agree = [(np.sign(p) == np.sign(total)) & (total != 0) for p in parts]
    m = sum(np.where(a, p, 0) for a, p in zip(agree, parts, strict=True))
    share = sum(np.where(a, w, 0) for a, w in zip(agree, weights, strict=True))
    return base + scale * (np.divide(m, share, out=np.zeros_like(m), where=share != 0) if normalize else m)


def close(found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * (1e-12 if found.dtype == np.float64 else 3e-7))


def bits_of(kind):
    return 64 if kind == "wide" else 32


@pytest.mark.parametrize("kind", ["narrow", "coarse", "wide"])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_keeps_the_largest_and_elects_a_sign(kind, normalize):
    base, *others = models_like(kind, (130, 96), 3)
    densities, weights = (0.53, 0.29, 1.0), (0.75, 0.5, 0.875)
    each = [{"density": d, "weight": w} for d, w in zip(densities, weights, strict=True)]
    found = [
        merge("ties", [base, *others], each, bits=bits_of(kind), cuts=c, normalize=normalize, **{"lambda": 0.8})
        for c in CUTS
    ]
    vectors = [top(m - base, share) for m, share in zip(others, densities, strict=True)]
    close(found[0], summed(base, vectors, weights, elect=True, normalize=normalize, scale=0.8))
    assert same_bits(*found)


def test_ties_keeps_all_elements_as_large_as_the_threshold():
    base = np.zeros(10, np.float32)
    other = np.array([1, -2, 2, 2, 3, 0.5, -1, 1, 0, 2], np.float32)
    found = merge("ties", [base, other], [{"density": 0.3}])
    np.testing.assert_array_equal(found, np.where(np.abs(other) >= 2, other, 0))


def test_a_negative_weight_turns_the_vector_round():
    base, a, b = models_like("narrow", (64, 64), 2)
    each = [{"weight": 0.7, "density": 0.5}, {"weight": -0.4, "density": 0.5}]
    vectors = [top(m - base, 0.5) for m in (a, b)]
    close(merge("ties", [base, a, b], each), summed(base, vectors, (0.7, -0.4), elect=True, normalize=True))


@pytest.mark.parametrize(
    ("density", "gamma"), [(0.53, 0.1), (0.9, 0.01), (0.53, 0.0), (0.53, 0.6), (0.37, 0.63), (1.0, 0.1), (0.0, 0.1)]
)
@pytest.mark.parametrize("elect", [False, True])
def test_breadcrumbs_drops_both_ends(density, gamma, elect):
    base, a, b = models_like("narrow", (100, 51), 2)
    each = [{"density": density, "gamma": gamma, "weight": 0.7}, {"density": 0.5, "weight": 0.6}]
    name = "breadcrumbs_ties" if elect else "breadcrumbs"
    found = [merge(name, [base, a, b], each, cuts=c) for c in CUTS]
    vectors = [middle(a - base, density, gamma), middle(b - base, 0.5, 0.01)]
    close(found[0], summed(base, vectors, (0.7, 0.6), elect=elect, normalize=False))
    assert same_bits(*found)


def test_breadcrumbs_keeps_the_share_that_was_asked_for():
    base, a = models_like("wide", (100, 100), 1)
    for density, gamma in ((0.53, 0.1), (0.53, 0.0), (0.53, 0.47), (0.53, 0.9)):
        found = merge("breadcrumbs", [base, a], [{"density": density, "gamma": gamma}], bits=64)
        assert np.count_nonzero(found != base) == 5300


@pytest.mark.parametrize(
    ("name", "trim"),
    [("ties", lambda d: top(d, 0.4)), ("breadcrumbs", lambda d: middle(d, 0.4, 0.01))],
    ids=["ties", "breadcrumbs"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_rescaled_vectors_keep_their_sum_of_magnitudes(name, trim, scale):
    base = np.zeros((90, 70), np.float32)
    other = (np.random.default_rng(0).normal(0, 1, base.shape) * scale).astype(np.float32)
    found = [merge(name, [base, other], [{"density": 0.4}], rescale=True, cuts=c) for c in CUTS]
    kept = trim(other)
    factor = np.abs(other.astype(np.float64)).sum() / np.abs(kept.astype(np.float64)).sum()
    np.testing.assert_allclose(found[0], kept * factor, rtol=3e-7)
    assert same_bits(*found)


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_models_like_the_base_give_the_base(name):
    base = models_like("narrow", (64, 65), 0)[0]
    base[0, :2] = -0.0, 0.0
    for each in ([{"density": 0.5}] * 2, [{"density": 1.0}] * 2, [{"density": 0.0}] * 2, [{"weight": 0.0}] * 2):
        for rescale in (False, True):
            assert same_bits(merge(name, [base] * 3, each, rescale=rescale, normalize=True), base)


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "dare_linear", "della"])
def test_a_model_that_weighs_nothing_is_not_read(name):
    base, a, b = models_like("narrow", (64, 65), 2)
    alone = merge(name, [base, b], [{"density": 0.5}], keys=[5])
    b_after_nan = merge(name, [base, a * np.nan, b], [{"density": 0.5, "weight": 0.0}, {"density": 0.5}], keys=[4, 5])
    assert same_bits(alone, b_after_nan)


def test_what_is_not_kept_leaves_the_base_as_it_is():
    base, a = models_like("narrow", (64, 65), 1)
    found = merge("ties", [base, a], [{"density": 0.25}])
    assert np.count_nonzero(found.view(np.uint32) == base.view(np.uint32)) >= 64 * 65 * 3 // 4


@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("density", [0.0, 0.3, 0.9, 1.0])
def test_nan_stays_where_it_is(name, density):
    base, a, b = models_like("narrow", (50, 50), 2)
    clean = merge(name, [base, a, b], [{"density": density}] * 2)
    a[3, 4], base[7, 7], b[9, 9] = np.nan, np.nan, -np.inf
    for rescale in (False, True):
        found = merge(name, [base, a, b], [{"density": density}] * 2, rescale=rescale)
        wrong = ~np.isfinite(found)
        assert wrong[3, 4]
        assert wrong[7, 7]
        assert wrong.sum() <= 3
    assert np.isfinite(clean).all()


@pytest.mark.parametrize("name", ["ties", "breadcrumbs"])
def test_more_nan_than_are_kept_leave_no_number(name):
    base = np.zeros(10, np.float32)
    other = np.arange(10, dtype=np.float32)
    other[2:8] = np.nan
    found = merge(name, [base, other], [{"density": 0.4}])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(other))
    np.testing.assert_array_equal(found[~np.isnan(other)], 0)


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"nearswap", "della", "della_linear"}))
@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (), (1,), (1, 1)])
def test_shapes_at_the_edge(name, shape):
    base, a = np.full(shape, 2.0, np.float32), np.full(shape, 3.0, np.float32)
    found = merge(name, [base, a])
    assert found.shape == shape
    np.testing.assert_array_equal(found, a)


def test_defaults_are_those_that_recipes_rely_on():
    defaults = {name: {s.name: s.default for s in method.settings} for name, method in ROWS.items()}
    normalized = {name for name, own in defaults.items() if own.get("normalize")}
    assert normalized == {"ties", "della"}
    assert {name for name, own in defaults.items() if own.get("rescale")} == {
        "dare_linear",
        "dare_ties",
        "della",
        "della_linear",
    }
    assert defaults["breadcrumbs"]["gamma"] == 0.01
    assert defaults["della"]["epsilon"] == 0.15
    assert all(own.get("density", 1.0) == 1.0 and own.get("lambda", 1.0) == 1.0 for own in defaults.values())
    assert all(own["weight"] is None for own in defaults.values() if "weight" in own)


@pytest.mark.parametrize("densities", [(1.0, 0.4), (0.4, 1.0), (1.0, 0.0), (0.25, 0.4, 1.0)])
@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_rescaling_with_densities_apart(name, densities):
    """Each vector has its own factor, and one that is kept whole does not keep the others from theirs."""
    base, *others = models_like("narrow", (70, 40), len(densities))
    weights = (0.75, 0.5, 0.875)[: len(densities)]
    each = [{"density": d, "weight": w} for d, w in zip(densities, weights, strict=True)]
    each = [own | ({} if name == "ties" else {"gamma": 0.0}) for own in each]
    found = merge(name, [base, *others], each, rescale=True, normalize=False)
    vectors = []
    for other, density in zip(others, densities, strict=True):
        d = (other - base).astype(np.float64)
        kept = top(d, density)
        vectors.append(kept * (np.abs(d).sum() / np.abs(kept).sum() if kept.any() else 1))
    close(found, summed(base, vectors, weights, elect=name != "breadcrumbs", normalize=False))
