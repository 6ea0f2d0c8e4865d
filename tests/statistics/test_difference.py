"""Statistics of differences against numpy and scipy in float64."""

from __future__ import annotations

import math
from functools import partial

import ml_dtypes
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import statistics_of as statistics_by

from netweight.dtypes import DTYPES
from netweight.statistics.difference import PROBABILITIES, DifferenceStatistics

FLOATS = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]


@pytest.fixture(scope="module")
def statistics_of(kernels):
    return partial(statistics_by, kernels=kernels)


def upcast(array, wide):
    with np.errstate(invalid="ignore"):
        return array.astype(np.float64 if wide else np.float32)


def difference(base, model):
    """The rule of the specification: float32 of the upcast values, float64 where either side is float64."""
    wide = np.float64 in (model.dtype, base.dtype if base is not None else None)
    with np.errstate(invalid="ignore", over="ignore"):
        return upcast(model, wide) if base is None else upcast(model, wide) - upcast(base, wide)


def close(got, expected, scale, relative=1e-9):
    if math.isnan(expected) or math.isinf(expected):
        return got == expected or (math.isnan(got) and math.isnan(expected)) or not math.isfinite(got)
    return abs(got - expected) <= relative * max(abs(expected), scale)


def check(found, values):
    """One model's distribution against numpy on the float64 `values`."""
    assert found.n == values.size
    assert found.n_nan == np.isnan(values).sum()
    assert found.n_inf == np.isinf(values).sum()
    assert found.n_zero == (values == 0).sum()
    x = values[np.isfinite(values)].astype(np.float64)
    assert found.moments.n == x.size
    if not x.size:
        assert found.quantiles == ()
        assert found.moments.l2 == 0
        return
    with np.errstate(over="ignore", invalid="ignore"):
        expected = [float(np.quantile(x, p)) for p in PROBABILITIES]
    if np.isfinite(expected).all():
        assert list(found.quantiles) == expected
    m = found.moments
    assert m.maxabs == np.abs(x).max()
    assert (m.minimum, m.maximum) == (x.min(), x.max())
    with np.errstate(all="ignore"):
        big = np.longdouble
        l2 = float(np.sqrt(np.sum(x.astype(big) ** 2)))
        l1 = float(np.sum(np.abs(x.astype(big))))
        mean = np.mean(x.astype(big))
        e = x.astype(big) - mean
        std = float(np.sqrt(np.mean(e**2)))
    if np.abs(x).max() < 1e75 and (l2 == 0 or l2 > 1e-70):  # beyond, fourth powers leave float64
        assert close(m.l2, l2, 0, 1e-12)
        assert close(m.l1, l1, 0, 1e-12)
        assert close(m.average, float(mean), l1 / x.size, 1e-12)
        assert close(m.std, std, l2 / math.sqrt(x.size) * 1e-6)
        if std > 1e-6 * l2 / math.sqrt(x.size):
            skew = float(np.mean(e**3) / np.mean(e**2) ** 1.5)
            kurtosis = float(np.mean(e**4) / np.mean(e**2) ** 2 - 3)
            assert close(m.skew, skew, 1.0)
            assert close(m.kurtosis_excess, kurtosis, 1.0)
            if std > 1e-100:
                with np.errstate(over="ignore"):  # scipy divides by the mean
                    skew, kurtosis = float(scipy.stats.skew(x)), float(scipy.stats.kurtosis(x))
                assert close(m.skew, skew, 1.0, 1e-7)
                assert close(m.kurtosis_excess, kurtosis, 1.0, 1e-7)


def random_array(name, size, rng, scale=0.02):
    values = rng.standard_normal(size) * scale
    with np.errstate(all="ignore"):
        return (np.abs(values) if name == "F8_E8M0" else values).astype(DTYPES[name].to_numpy())


@pytest.mark.parametrize("base_name", FLOATS)
@pytest.mark.parametrize("name", FLOATS)
def test_every_pair_of_types(statistics_of, base_name, name):
    rng = np.random.default_rng(7)
    base, model = random_array(base_name, 30_011, rng), random_array(name, 30_011, rng)
    found = statistics_of(base, [model], [base_name, name])
    check(found.distribution(0), difference(base, model))
    finite = upcast(base, wide=True)
    assert close(found.base_l2(), float(np.linalg.norm(finite[np.isfinite(finite)])), 0, 1e-12)


@pytest.mark.parametrize("name", FLOATS)
def test_a_tensor_alone(statistics_of, name):
    model = random_array(name, 20_000, np.random.default_rng(1))
    check(statistics_of(None, [model], [None, name]).distribution(0), difference(None, model))


SPECIAL = [0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38, 5e-324, 1e-300]


@st.composite
def arrays(draw):
    """A base and up to three models of one size, types and value classes mixed."""
    size = draw(st.integers(0, 300))
    names = draw(st.lists(st.sampled_from(FLOATS), min_size=2, max_size=4))
    found = []
    for name in names:
        kind = draw(st.sampled_from(["special", "constant", "normal", "patterns", "zero"]))
        dtype = DTYPES[name].to_numpy()
        seed = draw(st.integers(0, 2**32 - 1))
        rng = np.random.default_rng(seed)
        with np.errstate(all="ignore"):
            if kind == "special":
                values = rng.choice(np.array(SPECIAL), size).astype(dtype)
            elif kind == "constant":
                values = np.full(size, draw(st.sampled_from([0.1, 1.0, -3.0, 1e-30]))).astype(dtype)
            elif kind == "normal":
                values = (rng.standard_normal(size) * draw(st.sampled_from([1e-30, 1e-3, 1.0, 1e20]))).astype(dtype)
            elif kind == "patterns":
                values = rng.integers(0, 256, size * dtype.itemsize, dtype=np.uint8).view(dtype)
            else:
                values = np.zeros(size).astype(dtype)
        found.append(values)
    return found, names


@settings(max_examples=200, deadline=None)
@given(arrays())
def test_every_kind_of_value(statistics_of, case):
    found_arrays, names = case
    base, models = found_arrays[0], found_arrays[1:]
    found = statistics_of(base, models, names)
    wide = "F64" in names  # float64 anywhere makes the whole parameter float64
    with np.errstate(invalid="ignore", over="ignore"):
        expected = [upcast(m, wide) - upcast(base, wide) for m in models]
    for i, values in enumerate(expected):
        check(found.distribution(i), values)
    gram = found.gram()
    for i, a in enumerate(expected):
        for j, b in enumerate(expected):
            both = np.isfinite(a) & np.isfinite(b) if i != j else np.isfinite(a)
            with np.errstate(over="ignore", invalid="ignore"):
                product = a[both].astype(np.longdouble) * b[both].astype(np.longdouble)
                if np.isfinite(product).all() and np.abs(product).sum() < 1e150:
                    assert close(gram[i, j], float(product.sum()), float(np.abs(product).sum()) + 1e-290, 1e-12)


def test_float32_needs_a_second_look_and_float64_more(statistics_of):
    rng = np.random.default_rng(3)
    size = (1 << 20) + 12_345  # more residual values than are handed over
    for name, looks in (("F32", 1), ("F64", 3)):
        base, model = random_array(name, size, rng), random_array(name, size, rng)
        found = statistics_of(base, [model], [name, name])
        assert found.looks == looks
        check(found.distribution(0), difference(base, model))


def test_bfloat16_differences_need_one_look_however_they_are_cut(statistics_of, kernels):
    """Sums are those of any cutting: bit for bit on the CPU, whose chunks are fixed, elsewhere but for rounding."""
    rng = np.random.default_rng(4)
    size = 400_000
    base = random_array("BF16", size, rng)
    models = [
        (base.astype(np.float32) + rng.standard_normal(size).astype(np.float32) * s).astype(ml_dtypes.bfloat16)
        for s in (1e-3, 1e-4, 1e-5)
    ]
    whole = statistics_of(base, models, ["BF16"] * 4, stretch=1 << 16)
    assert whole.looks == 0
    for i, model in enumerate(models):
        check(whole.distribution(i), difference(base, model))
    for block in (8192, 65536):
        again = statistics_of(base, models, ["BF16"] * 4, stretch=1 << 16, block=block, order=[6, 0, 3, 1, 2, 5, 4])
        if kernels.name == "cpu":
            assert [again.distribution(i) for i in range(3)] == [whole.distribution(i) for i in range(3)]
            assert again.gram().tobytes() == whole.gram().tobytes()
        for i, model in enumerate(models):
            check(again.distribution(i), difference(base, model))
        assert np.allclose(again.gram(), whole.gram(), rtol=1e-9, atol=1e-15)


def test_stretches_that_differ_still_give_exact_quantiles(statistics_of):
    """The first stretch says nothing of the later ones: what was not handed over is found by a second look."""
    rng = np.random.default_rng(5)
    first, rest = rng.standard_normal(1 << 16) * 1e-6, rng.standard_normal(3 << 16) + 5.0
    model = np.concatenate([first, rest]).astype(np.float32)
    base = np.zeros_like(model)
    found = statistics_of(base, [model], ["F32", "F32"], stretch=1 << 16)
    check(found.distribution(0), model)


def test_a_frozen_model_and_an_absent_one(statistics_of):
    rng = np.random.default_rng(6)
    base = random_array("BF16", 50_000, rng)
    moved = (base.astype(np.float32) * 1.01).astype(ml_dtypes.bfloat16)
    found = statistics_of(base, [base.copy(), moved], ["BF16"] * 3)
    check(found.distribution(0), np.zeros(50_000, np.float32))
    check(found.distribution(1), difference(base, moved))
    absent = statistics_of(base, [None, moved], ["BF16", None, "BF16"])
    assert absent.distribution(0).n == 0
    assert absent.distribution(1) == found.distribution(1)


def test_incomplete_statistics_are_refused():
    with pytest.raises(RuntimeError, match="0 of 2 stretches"):
        DifferenceStatistics(1, 2).unresolved()


def test_the_histogram_is_of_leading_bits(statistics_of):
    rng = np.random.default_rng(7)
    base, model = rng.standard_normal((2, 5000)).astype(np.float32)
    found = statistics_of(base, [model], ["F32", "F32"], stretch=1 << 12)
    leading = (model - base).view(np.uint32) >> 16
    assert np.array_equal(found.histogram(0), np.bincount(leading, minlength=1 << 16))
    with pytest.raises(RuntimeError, match="no stretch was added"):
        DifferenceStatistics(1).histogram(0)
