"""The histogram of bit patterns against numpy, for every 8- and 16-bit float type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.dtypes import DTYPES, Kind
from netweight.kernels.cpu import CpuKernels
from netweight.statistics.difference import PROBABILITIES
from netweight.statistics.patterns import PatternHistogram

TYPES = [d.name for d in DTYPES.values() if d.kind is Kind.FLOAT and d.bits in (8, 16)]
KERNELS = CpuKernels()


def histogram(name, patterns):
    found = PatternHistogram.empty(DTYPES[name])
    KERNELS.count_patterns(patterns, found.counts)
    return found


def bits(name, size, seed):
    kind = np.uint8 if DTYPES[name].bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, size, dtype=kind, endpoint=True)


def check(found, name, patterns):
    with np.errstate(invalid="ignore"):
        values = patterns.view(DTYPES[name].to_numpy()).astype(np.float64)
    assert found.n == values.size
    assert (found.n_nan, found.n_inf) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert found.n_zero == (values == 0).sum()
    x = values[np.isfinite(values)]
    m = found.moments()
    assert m.n == x.size
    if not x.size:
        assert found.quantiles(PROBABILITIES) == ()
        return
    assert list(found.quantiles(PROBABILITIES)) == [float(np.quantile(x, p)) for p in PROBABILITIES]
    assert (m.minimum, m.maximum, m.maxabs) == (x.min(), x.max(), np.abs(x).max())
    wide = x.astype(np.longdouble)
    e = wide - wide.mean()
    l2, std = float(np.sqrt((wide**2).sum())), float(np.sqrt((e**2).mean()))
    assert m.l1 == pytest.approx(float(np.abs(wide).sum()), rel=1e-12, abs=0)
    assert m.l2 == pytest.approx(l2, rel=1e-12, abs=0)
    assert m.average == pytest.approx(float(wide.mean()), rel=0, abs=1e-12 * l2)
    if x.min() < x.max():
        assert m.std == pytest.approx(std, rel=1e-9, abs=0)
        assert m.skew == pytest.approx(float((e**3).mean() / std**3), rel=1e-9, abs=1e-9)
        assert m.kurtosis_excess == pytest.approx(float((e**4).mean() / std**4 - 3), rel=1e-9, abs=1e-9)
    else:
        assert (m.std, m.skew, m.kurtosis_excess) == (0, 0, 0)


def test_the_types():
    assert set(TYPES) == {"F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


@pytest.mark.parametrize("name", TYPES)
def test_weights(name):
    values = np.abs(np.random.default_rng(0).standard_normal(100_003)) if name == "F8_E8M0" else (
        np.random.default_rng(0).standard_normal(100_003))  # fmt: skip
    array = (values * 0.5).astype(DTYPES[name].to_numpy())
    patterns = array.view(np.uint8 if DTYPES[name].bits == 8 else np.uint16)
    check(histogram(name, patterns), name, patterns)


@pytest.mark.parametrize("name", TYPES)
def test_every_pattern_once(name):
    patterns = np.arange(1 << DTYPES[name].bits, dtype=np.uint8 if DTYPES[name].bits == 8 else np.uint16)
    found = histogram(name, patterns)
    with np.errstate(invalid="ignore"):
        values = patterns.view(DTYPES[name].to_numpy()).astype(np.float64)
    assert (found.n_nan, found.n_inf) == (np.isnan(values).sum(), np.isinf(values).sum())
    x = np.sort(values[np.isfinite(values)])
    distinct, counts = found.distinct()
    assert (distinct == x).all()
    assert (counts == 1).all()
    assert list(found.quantiles(PROBABILITIES)) == [float(np.quantile(x, p)) for p in PROBABILITIES]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TYPES), st.integers(0, 60), st.integers(0, 2**32 - 1), st.sampled_from(["any", "few", "same"]))
def test_any_patterns(name, size, seed, spread):
    patterns = bits(name, size, seed)
    if spread == "few" and size:
        patterns = np.random.default_rng(seed).choice(patterns[:2], size)
    elif spread == "same" and size:
        patterns[:] = patterns[0]
    with np.errstate(invalid="ignore"):
        x = patterns.view(DTYPES[name].to_numpy()).astype(np.float64)
    x = x[np.isfinite(x)]
    if len(np.unique(x)) > 1 and x.std() < 1e-6 * np.abs(x).max():
        return  # a spread that rounding of the mean would drown
    check(histogram(name, patterns), name, patterns)


@pytest.mark.parametrize("name", TYPES)
def test_merging_is_counting_together(name):
    a, b = bits(name, 1000, 1), bits(name, 77, 2)
    merged = histogram(name, a).merge(histogram(name, b))
    assert (merged.counts == histogram(name, np.concatenate([a, b])).counts).all()
    assert (merged.merge(PatternHistogram.empty(DTYPES[name])).counts == merged.counts).all()


def test_types_that_do_not_fit():
    with pytest.raises(ValueError, match="histograms of BF16 and F16 do not merge"):
        PatternHistogram.empty(DTYPES["BF16"]).merge(PatternHistogram.empty(DTYPES["F16"]))
    for name in ("F32", "I16", "U8", "F4"):
        with pytest.raises(TypeError, match=f"{name} has no histogram of bit patterns: expected an 8- or 16-bit float"):
            PatternHistogram.empty(DTYPES[name])
