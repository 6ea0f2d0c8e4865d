"""ram and ramplus_tl, against full arrays."""

from __future__ import annotations

import numpy as np
import pytest
from declared import merge, models_like, same_bits
from right_merges import ram

CUTS = ({"stretch": 8192, "block": 4096, "seed": 1}, {"stretch": 1 << 20, "block": 1 << 20, "seed": 2})
STRONG = {"r": 0.5, "alpha": 1.5}
EACH = pytest.mark.parametrize("name", ["ram", "ramplus_tl"])


def partly_changed(kind, shape, count, seed=0):
    """A base and models that each changed about half of it."""
    base, *others = models_like(kind, shape, count, seed)
    rng = np.random.default_rng(seed + 100)
    return [base, *(np.where(rng.random(shape) < 0.5, other, base) for other in others)]


def wide(tensors):
    return [t.astype(np.float64) for t in tensors]


@pytest.mark.parametrize("kind", ["narrow", "coarse", "wide"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("epsilon", [1e-5, 0.008])
@pytest.mark.parametrize("given", [None, {"r": 0.1, "alpha": 0.2}, STRONG, {"r": -0.7, "alpha": 9.0}])
def test_shared_changes_are_averaged_and_single_ones_kept(kind, count, epsilon, given):
    tensors = partly_changed(kind, (110, 90), count)
    bits = 64 if kind == "wide" else 32
    name = "ram" if given is None else "ramplus_tl"
    found = [merge(name, tensors, bits=bits, cuts=c, epsilon=epsilon, **(given or {})) for c in CUTS]
    base, *others = wide(tensors)
    np.testing.assert_allclose(
        found[0], ram(base, others, epsilon, **(given or {})), rtol=0, atol=1e-15 if bits == 64 else 3e-8
    )
    assert same_bits(*found)
    assert (found[0] == tensors[0]).mean() >= 0.5**count * 0.9


def test_the_shares_of_each_model_count_by_themselves():
    base = np.zeros(8, np.float32)
    a = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)  # alone twice, with b three times: rho 1.5
    b = np.array([0, 0, 3, 3, 3, 1, 1, 0], np.float32)  # as a
    c = np.array([0, 0, 0, 0, 4, 0, 0, 1], np.float32)  # alone once, with others once: rho 1
    found = merge("ramplus_tl", [base, a, b, c], r=0.5, alpha=1.25)
    np.testing.assert_allclose(found, [1.625, 1.625, 2, 2, 8 / 3, 1.625, 1.625, 1.5], rtol=1e-7)
    found = merge("ramplus_tl", [base, a, b, c])
    np.testing.assert_allclose(found, [1.02, 1.02, 2, 2, 8 / 3, 1.02, 1.02, 1.02], rtol=1e-7)


def test_where_nothing_is_shared_or_nothing_single_there_is_no_factor():
    base, a, b = models_like("narrow", (64, 65), 2)
    np.testing.assert_array_equal(merge("ramplus_tl", [base, a], **STRONG), merge("ram", [base, a]))
    np.testing.assert_array_equal(
        merge("ramplus_tl", [base, a, b], epsilon=0.0, **STRONG), merge("ram", [base, a, b], epsilon=0.0)
    )


def test_a_few_single_elements_are_divided_by_their_number_or_by_epsilon():
    base, a = np.zeros(4, np.float32), np.array([9, 9, 9, 0], np.float32)
    b = np.array([9, 9, 0, 9], np.float32)
    found = merge("ramplus_tl", [base, a, b], r=1.0, alpha=9.0)
    np.testing.assert_array_equal(found, [9, 9, 27, 27])
    found = merge("ramplus_tl", [base, a, b], r=1.0, alpha=9.0, epsilon=4.0)
    np.testing.assert_array_equal(found, [9, 9, 9 + 4.5, 9 + 4.5])


def test_without_r_or_alpha_it_is_ram():
    tensors = partly_changed("narrow", (64, 65), 3)
    plain = merge("ram", tensors)
    assert same_bits(merge("ramplus_tl", tensors, r=0.0), plain)
    assert same_bits(merge("ramplus_tl", tensors, alpha=0.0), plain)
    assert (merge("ramplus_tl", tensors) != plain).mean() > 0.2


def test_what_one_model_alone_changed_is_that_model_s_element():
    base, a, b = partly_changed("narrow", (64, 65), 2)
    base[:, :20] *= np.float32(1e4)  # so that base + (a - base) is not a
    b[:, :20] = base[:, :20]
    found = merge("ram", [base, a, b], epsilon=0.0)
    alone = (a != base) & (b == base)
    assert np.count_nonzero(alone & (base + (a - base) != a)) > 500
    np.testing.assert_array_equal(found[alone], a[alone])
    assert same_bits(merge("ram", [base, a, a, a], epsilon=0.0), a)


def test_a_change_is_more_than_epsilon():
    base = np.zeros(5, np.float32)
    a = np.array([0.25, np.nextafter(np.float32(0.25), np.float32(1)), -0.25, -0.5, 0.1], np.float32)
    np.testing.assert_array_equal(merge("ram", [base, a], epsilon=0.25), [0, a[1], 0, -0.5, 0])
    np.testing.assert_array_equal(merge("ram", [base, a], epsilon=0.0), a)


@EACH
def test_changes_below_epsilon_leave_the_base_as_it_is(name):
    base, *others = models_like("narrow", (64, 65), 2)
    base[0, :2] = -0.0, 0.0
    small = [(base.astype(np.float64) + 1e-4 * (other - base)).astype(np.float32) for other in others]
    assert same_bits(merge(name, [base, *small]), base)
    assert (merge(name, [base, *small], epsilon=0.0) != base).mean() > 0.9
    assert same_bits(merge(name, [base, base, base], epsilon=0.0), base)


@EACH
def test_changes_that_cancel_leave_nothing(name):
    base = np.ones((64, 64), np.float32)
    assert same_bits(merge(name, [base, base + 1, base - 1]), base)


@EACH
def test_nan_stays_in_its_place(name):
    base, a, b = partly_changed("narrow", (50, 50), 2)
    clean = merge(name, [base, a, b])
    b[3, 4] = base[3, 4]
    a[3, 4], b[7, 7], base[9, 9], b[11, 11] = np.nan, np.nan, np.nan, np.inf
    a[11, 11] = base[11, 11]
    found = merge(name, [base, a, b])
    assert np.isnan([found[3, 4], found[7, 7], found[9, 9]]).all()
    assert found[11, 11] == np.inf
    assert np.count_nonzero(~np.isfinite(found)) == 4
    assert np.isfinite(clean).all()
    nothing = np.full_like(base, np.nan)
    assert np.isnan(merge(name, [base, nothing, b])).all()


def test_nan_changes_no_share():
    base = np.zeros(6, np.float32)
    a, b = np.array([1, 1, 1, 0, np.nan, 0], np.float32), np.array([0, 1, 0, 1, 1, np.nan], np.float32)
    found = merge("ramplus_tl", [base, a, b], r=1.0, alpha=9.0)  # of a: 1 shared, 2 alone; of b: 1 and 2
    np.testing.assert_array_equal(found, [1.5, 1, 1.5, 1.5, np.nan, np.nan])


def test_more_models_than_a_byte_counts():
    base = np.zeros(8, np.float32)
    models = [base + 1] * 256 + [base + np.float32(0.5)] * 44
    np.testing.assert_allclose(merge("ram", [base, *models]), (256 + 22) / 300, rtol=1e-7)
    np.testing.assert_allclose(merge("ramplus_tl", [base, *models], **STRONG), (256 + 22) / 300, rtol=1e-7)
