"""dare and della: the random numbers restated, shares and means within five sigma."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from declared import course_of, merge, models_like, same_bits

from netweight.errors import OptionError

KEYS = (0xDEADBEEF12345678, 0x0123456789ABCDEF, 7)
CUTS = ({"stretch": 8192, "block": 4096, "seed": 1}, {"stretch": 1 << 20, "block": 1 << 20, "seed": 2})
MASK = (1 << 64) - 1


def draw(key, element):
    """The upper 32 bits of splitmix64's output number `element`, with the whole numbers of Python."""
    z = (key + (element + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return (z ^ z >> 31) >> 32


def draws(key, shape):
    return np.array([draw(key, i) for i in range(int(np.prod(shape)))], np.uint64).reshape(shape)


def chances(d, density, epsilon):
    """Per row: by the rank of the magnitude, equals by position."""
    rows = np.abs(d).reshape(-1, d.shape[-1])
    found = np.empty(rows.shape)
    for i, row in enumerate(rows):
        order = sorted(range(len(row)), key=lambda j: (row[j], j))
        for rank, j in enumerate(order):
            found[i, j] = density - epsilon + 2 * epsilon * rank / (len(row) - 1) if len(row) > 1 else density
    return found.reshape(d.shape)


def test_the_draws_are_splitmix64():
    # the first outputs of the reference implementation with the seed 1234567
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [draw(1234567, i) for i in range(5)] == [value >> 32 for value in known]


@pytest.mark.parametrize("kind", ["narrow", "coarse", "wide"])
def test_dare_restated(kind):
    base, a, b = models_like(kind, (120, 80), 2)
    each = [{"density": 0.4, "weight": 0.7}, {"density": 0.65, "weight": 0.5}]
    bits = 64 if kind == "wide" else 32
    found = [merge("dare_linear", [base, a, b], each, bits=bits, keys=KEYS[:2], cuts=c) for c in CUTS]
    expected = base.astype(np.float64)
    for m, own, key in zip((a, b), each, KEYS, strict=False):
        kept = draws(key, base.shape) < round(own["density"] * 2**32)
        expected += own["weight"] * np.where(kept, (m - base) / np.float64(own["density"]), 0)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-12 if bits == 64 else 1e-7)
    assert same_bits(*found)


def test_dare_ties_elects_among_what_was_kept():
    base, a, b = models_like("narrow", (64, 64), 2)
    found = merge("dare_ties", [base, a, b], [{"density": 0.5}] * 2, keys=KEYS[:2])
    v = [
        np.where(draws(key, base.shape) < 2**31, 2 * (m - base).astype(np.float64), 0)
        for m, key in zip((a, b), KEYS, strict=False)
    ]
    sign = np.sign(v[0] + v[1])
    expected = base + sum(np.where(np.sign(each) == sign, each, 0) for each in v)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_dare_keeps_the_share_and_the_mean(density):
    shape = (400, 500)
    base = np.zeros(shape, np.float32)
    other = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)
    found = merge("dare_linear", [base, other], [{"density": density}], keys=[KEYS[0]])
    kept = found != 0
    np.testing.assert_allclose(found[kept], other[kept] / density, rtol=1e-6)
    assert abs(kept.mean() - density) < 5 * sqrt(density * (1 - density) / kept.size)
    spread = np.sqrt((other.astype(np.float64) ** 2).sum() * (1 - density) / density)
    assert abs(found.sum(dtype=np.float64) - other.sum(dtype=np.float64)) < 5 * spread


def test_models_drop_independently():
    shape = (300, 300)
    base, one = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    kept = [merge("dare_linear", [base, one], [{"density": 0.5}], keys=[key]) != 0 for key in KEYS]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs((kept[i] & kept[j]).mean() - 0.25) < 5 * sqrt(0.25 * 0.75 / base.size)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_without_rescale_kept_elements_are_as_they_were(name):
    base, a = models_like("narrow", (70, 60), 1)
    each = [{"density": 0.5, **({"epsilon": 0.2} if "della" in name else {})}]
    plain = merge(name, [base, a], each, keys=[KEYS[0]], rescale=False, normalize=False)
    scaled = merge(name, [base, a], each, keys=[KEYS[0]], normalize=False)
    kept = plain != base
    np.testing.assert_array_equal(kept, scaled != base)
    np.testing.assert_allclose(plain[kept], a[kept], rtol=0, atol=1e-7)
    assert 0.4 < kept.mean() < 0.6


@pytest.mark.parametrize("kind", ["narrow", "coarse", "wide"])
@pytest.mark.parametrize("shape", [(120, 80), (5000,), (700, 1), (2, 3, 4, 5)])
def test_della_restated(kind, shape):
    base, a, b = models_like(kind, shape, 2)
    each = [{"density": 0.4, "epsilon": 0.25, "weight": 0.7}, {"density": 0.65, "epsilon": 0.1, "weight": 0.5}]
    bits = 64 if kind == "wide" else 32
    found = [merge("della_linear", [base, a, b], each, bits=bits, keys=KEYS[:2], cuts=c) for c in CUTS]
    expected = base.astype(np.float64)
    for m, own, key in zip((a, b), each, KEYS, strict=False):
        p = chances(m - base, own["density"], own["epsilon"])
        kept = draws(key, shape) < np.rint(p.astype(np.float32) * 2.0**32)
        expected += own["weight"] * np.where(kept, (m - base).astype(np.float64) / p, 0)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=2e-7)
    assert same_bits(*found)


def test_della_keeps_large_elements_more_often():
    shape = (2000, 64)
    base = np.zeros(shape, np.float32)
    other = np.tile(np.arange(1, 65, dtype=np.float32), (2000, 1))
    kept = merge("della", [base, other], [{"density": 0.5, "epsilon": 0.3}], keys=[KEYS[0]]) != 0
    expected = np.linspace(0.2, 0.8, 64)
    assert (np.abs(kept.mean(axis=0) - expected) < 5 * np.sqrt(expected * (1 - expected) / 2000)).all()


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_a_density_of_one_keeps_everything(name):
    base, a = models_like("narrow", (64, 64), 1)
    np.testing.assert_allclose(merge(name, [base, a]), a, rtol=0, atol=2e-8)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_a_density_of_zero_keeps_nothing(name):
    base, a = models_like("narrow", (64, 64), 1)
    assert same_bits(merge(name, [base, a], [{"density": 0.0}]), base)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_models_like_the_base_give_the_base(name):
    base = models_like("narrow", (64, 65), 0)[0]
    base[0, :2] = -0.0, 0.0
    assert same_bits(merge(name, [base] * 3, [{"density": 0.5}] * 2), base)


@pytest.mark.parametrize("name", ["dare_ties", "della"])
@pytest.mark.parametrize("rescale", [False, True])
def test_nan_stays_where_it_is(name, rescale):
    base, a = models_like("narrow", (64, 64), 1)
    a[5, 6], base[7, 8] = np.nan, np.inf
    found = merge(name, [base, a], [{"density": 0.5}], rescale=rescale)
    assert np.isnan(found[5, 6])
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [5 * 64 + 6, 7 * 64 + 8]


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (), (1,)])
def test_shapes_at_the_edge(shape):
    base, a = np.full(shape, 2.0, np.float32), np.full(shape, 3.0, np.float32)
    found = merge("della", [base, a], [{"density": 0.5, "epsilon": 0.1}], keys=[KEYS[0]])
    assert found.shape == shape
    assert set(found.ravel().tolist()) <= {2.0, 4.0}


@pytest.mark.parametrize(
    ("density", "epsilon", "text"),
    [
        (0.9, 0.2, r"0\.9 - 0\.2 = 0\.7 and 0\.9 \+ 0\.2 = 1\.1"),
        (0.85, 0.15, r"0\.85 \+ 0\.15 = 1;"),
        (0.1, 0.15, r"0\.1 - 0\.15 = -0\.05"),
        (0.0, 0.0, r"0 - 0 = 0"),
    ],
)
def test_density_and_epsilon_must_leave_room(density, epsilon, text):
    what, course = course_of("della", (4, 4), [{"density": 0.5}, {"density": density, "epsilon": epsilon}])
    with pytest.raises(OptionError, match=r"^w: the chances density -/\+ epsilon of model 2 of 2 must lie .*" + text):
        course(what)
