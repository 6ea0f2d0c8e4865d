"""sce, nearswap and arcee_fusion, against full arrays."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from declared import merge, models_like, same_bits

from netweight.merging.methods.arcee_fusion import row_divergences

CUTS = ({"stretch": 8192, "block": 4096, "seed": 1}, {"stretch": 1 << 20, "block": 1 << 20, "seed": 2})


def selected(tensors, share):
    base, *others = tensors
    d = np.stack([m - base for m in others]).astype(np.float64)
    k = int(share * base.size + 1e-9)
    if share < 1:
        spread = d.std(axis=0).astype(base.dtype)
        d = np.where(spread >= np.sort(spread.ravel())[::-1][k - 1], d, 0)
    return d


def sce(tensors, share):
    base = tensors[0]
    d = selected(tensors, share)
    w = (d.reshape(len(d), -1) ** 2).sum(axis=1)
    w = (w / w.sum()).reshape(-1, *[1] * base.ndim)
    sign = np.sign(d.sum(axis=0))
    agree = (np.sign(d) == sign) & (sign != 0)
    share_of = (w * agree).sum(axis=0)
    return base + np.divide((w * agree * d).sum(axis=0), share_of, out=np.zeros(base.shape), where=share_of > 0)


@pytest.mark.parametrize("kind", ["narrow", "coarse", "wide"])
@pytest.mark.parametrize("share", [1.0, 0.43, 0.001])
def test_sce_selects_calculates_and_erases(kind, share):
    tensors = models_like(kind, (110, 90), 3)
    bits = 64 if kind == "wide" else 32
    found = [merge("sce", tensors, bits=bits, cuts=c, select_topk=share) for c in CUTS]
    expected = sce(tensors, share)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-15 if bits == 64 else 3e-8)
    np.testing.assert_array_equal(found[0] != tensors[0], expected.astype(found[0].dtype) != tensors[0])
    assert same_bits(*found)


@pytest.mark.parametrize("scale", [1e-6, 1e-30])
def test_sce_of_tiny_differences_is_that_of_large_ones_made_small(scale):
    tensors = models_like("narrow", (64, 64), 3)
    base = np.zeros((64, 64), np.float32)
    small = [base, *((m.astype(np.float64) * scale).astype(np.float32) for m in tensors[1:])]
    np.testing.assert_allclose(merge("sce", small, select_topk=0.4), sce(small, 0.4), rtol=1e-6)


def test_sce_keeps_all_positions_as_different_as_the_threshold():
    base = np.zeros(6, np.float32)
    a, b = np.array([1, 2, 3, 5, 5, 0], np.float32), np.array([1, 0, 1, 3, 4, 2], np.float32)
    found = merge("sce", [base, a, b], select_topk=0.5)  # spreads 0 1 1 1 .5 1: three asked for, four are equal
    np.testing.assert_array_equal(found != 0, [False, True, True, True, False, True])


def test_sce_of_nothing_selected_or_nothing_changed_is_the_base():
    base, a, b = models_like("narrow", (64, 65), 2)
    base[0, :2] = -0.0, 0.0
    assert same_bits(merge("sce", [base, a, b], select_topk=0.0), base)
    assert same_bits(merge("sce", [base, base, base], select_topk=0.5), base)


def test_sce_shows_nan_where_nothing_else_changed():
    base = models_like("narrow", (64, 65), 0)[0]
    wrong = base.copy()
    wrong[3, 4] = np.nan
    found = merge("sce", [base, wrong, base])
    assert np.flatnonzero(np.isnan(found)).tolist() == [3 * 65 + 4]
    found[3, 4] = base[3, 4]
    assert same_bits(found, base)


def test_sce_where_the_differences_cancel_is_the_base():
    base = models_like("narrow", (64, 64), 0)[0]
    base = np.round(base * 64).astype(np.float32)
    found = merge("sce", [base, base + 1, base - 1])
    assert same_bits(found, base)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0004])
def test_sce_keeps_nan_in_its_place(share):
    base, a, b = models_like("narrow", (50, 50), 2)
    a[3, 4], b[7, 7], base[9, 9] = np.nan, np.inf, np.nan
    found = merge("sce", [base, a, b], select_topk=share)
    assert np.isnan(found[3, 4])
    assert np.isnan(found[9, 9])
    assert np.count_nonzero(~np.isfinite(found)) <= 3


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("t", [0.003, 0.01, 1.0])
def test_nearswap_takes_near_elements_and_steps_towards_others(bits, t):
    base, other = models_like("wide" if bits == 64 else "narrow", (130, 70), 1)
    found = [merge("nearswap", [base, other], bits=bits, cuts=c, t=t) for c in CUTS]
    d = other - base
    near = np.abs(d) <= base.dtype.type(t)
    np.testing.assert_array_equal(found[0][near], other[near])
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.clip(t / np.abs(d.astype(np.float64)), 0, 1)
        np.testing.assert_allclose(found[0], weight * other + (1 - weight) * base, rtol=0, atol=3e-8)
    assert same_bits(*found)


def test_nearswap_at_its_edges():
    base, other = models_like("narrow", (64, 64), 1)
    assert same_bits(merge("nearswap", [base, other], t=0.0), base)
    assert same_bits(merge("nearswap", [base, base], t=0.1), base)
    other[1, 2] = np.nan
    found = merge("nearswap", [base, other], t=0.001)
    assert np.flatnonzero(np.isnan(found)).tolist() == [66]
    for shape in ((0,), (0, 3), ()):
        empty = np.ones(shape, np.float32)
        np.testing.assert_array_equal(merge("nearswap", [empty, empty * 2], t=3.0), empty * 2)


def importance(base, other):
    rows, own = (t.astype(np.float64).reshape(-1, base.shape[-1]) for t in (other, base))
    p, q = scipy.special.softmax(rows, axis=1), scipy.special.softmax(own, axis=1)
    divergence = scipy.special.rel_entr(p, q).sum(axis=1)
    return (np.abs(other - base).astype(np.float64).reshape(rows.shape) * divergence[:, None]).reshape(base.shape)


@pytest.mark.parametrize("kind", ["narrow", "coarse", "wide"])
@pytest.mark.parametrize("shape", [(130, 70), (6000,), (8, 9, 10)])
def test_fusion_takes_important_elements(kind, shape):
    base, other = models_like(kind, shape, 1)
    bits = 64 if kind == "wide" else 32
    found = [merge("arcee_fusion", [base, other], bits=bits, cuts=c) for c in CUTS]
    score = importance(base, other)
    lower, median, upper = np.quantile(score, [0.25, 0.5, 0.75])
    least = median + 1.5 * (upper - lower)
    clear = np.abs(score / least - 1) > 1e-9
    np.testing.assert_array_equal(found[0][clear], np.where(score >= least, other, base)[clear])
    assert 0 < np.count_nonzero(found[0] != base) < base.size // 4
    assert same_bits(*found)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7])
def test_quartiles_of_few_elements_are_interpolated(size):
    base = np.zeros(size, np.float64)
    other = 10.0 ** np.arange(size) / 10.0**size
    score = importance(base, other)
    lower, median, upper = np.quantile(score, [0.25, 0.5, 0.75])
    expected = np.where(score >= median + 1.5 * (upper - lower), other, base)
    np.testing.assert_array_equal(merge("arcee_fusion", [base, other], bits=64), expected)


def test_elements_of_equal_importance_are_all_taken():
    base = np.zeros((16, 16), np.float32)
    other = np.where(np.indices(base.shape).sum(axis=0) % 2, 0.25, -0.25).astype(np.float32)
    assert same_bits(merge("arcee_fusion", [base, other]), other)
    assert same_bits(merge("arcee_fusion", [base, base + np.float32(0.01)]), base + np.float32(0.01))
    assert same_bits(merge("arcee_fusion", [other, other]), other)


def test_tiny_changes_are_judged_as_large_ones():
    base = np.zeros((64, 64), np.float32)
    other = models_like("narrow", (64, 64), 0)[0] * np.float32(0.01)
    taken = merge("arcee_fusion", [base, other]) != 0
    small = merge("arcee_fusion", [base, other * np.float32(2.0**-40)]) != 0
    assert taken.sum() > 50
    assert np.count_nonzero(taken != small) <= taken.sum() // 50  # third-order terms of the divergence shift a few


@pytest.mark.parametrize("spread", [3.0, 0.1, 1e-4])
def test_divergences_are_those_of_scipy(spread):
    rng = np.random.default_rng(0)
    base, model = rng.normal(0, 1, (20, 50)), rng.normal(0, 1, (20, 50))
    model = base + spread * model
    model[3] = base[3]
    p, q = scipy.special.softmax(model, axis=1), scipy.special.softmax(base, axis=1)
    np.testing.assert_allclose(
        row_divergences(model, base), scipy.special.rel_entr(p, q).sum(axis=1), rtol=1e-6, atol=1e-16
    )


def test_divergences_of_rows_that_nearly_agree():
    """To second order the divergence is half the variance of the difference under the softmax."""
    rng = np.random.default_rng(1)
    base, change = rng.normal(0, 1, (20, 50)), rng.normal(0, 1, (20, 50))
    p = scipy.special.softmax(base, axis=1)
    variance = (p * change**2).sum(axis=1) - (p * change).sum(axis=1) ** 2
    for scale in (2.0**-20, 2.0**-24):
        model = np.round(base * 2**20) / 2**20 + np.round(change * 2**10) / 2**10 * scale
        rounded = np.round(base * 2**20) / 2**20
        np.testing.assert_allclose(row_divergences(model, rounded), variance * scale**2 / 2, rtol=1e-2)


def test_divergences_leave_out_what_is_not_finite():
    base = np.array([[0.1, 0.2, 0.3, 0.0], [1, 2, 3, 4], [0, 0, 0, 0], [1e30, 0, 0, 0]])
    model = np.array([[0.1, 0.3, 0.2, np.nan], [np.nan] * 4, [np.inf, -np.inf, 0.5, 0.0], [0, 0, 1e30, 0]])
    found = row_divergences(model, base)
    p, q = (scipy.special.softmax(t) for t in (model[0, :3], base[0, :3]))
    np.testing.assert_allclose(found[0], scipy.special.rel_entr(p, q).sum(), rtol=1e-9)
    assert found[1] == 0
    p, q = (scipy.special.softmax(np.array(t)) for t in ([0.5, 0.0], [0.0, 0.0]))
    np.testing.assert_allclose(found[2], scipy.special.rel_entr(p, q).sum(), rtol=1e-9)
    np.testing.assert_allclose(found[3], 1e30)


def test_fusion_keeps_nan_in_its_place():
    base, other = models_like("narrow", (50, 50), 1)
    clean = merge("arcee_fusion", [base, other])
    other[3, 4], base[7, 7], other[9, 9] = np.nan, np.nan, np.inf
    base[11, 11] = other[11, 11] = np.inf
    found = merge("arcee_fusion", [base, other])
    assert np.isnan(found[3, 4])
    assert np.isnan(found[7, 7])
    assert found[11, 11] == np.inf
    assert np.count_nonzero(~np.isfinite(found)) <= 4
    assert np.isfinite(clean).all()
