"""Histograms for the eye: every finite value is counted once, where its edges say."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.dtypes import DTYPES
from netweight.statistics.histogram import Histogram, histogram_of_bins, histogram_of_values
from netweight.statistics.moments import EMPTY, Moments
from netweight.statistics.patterns import PatternHistogram


def moments_of(values):
    distinct, counts = np.unique(values, return_counts=True)
    return Moments.of_counts(distinct.astype(np.float64), counts.astype(np.uint64))


def counted(edges, values):
    """The oracle: a value at an inner edge is on the side farther from zero."""
    edges, values = np.asarray(edges), np.asarray(values, np.float64)
    places = np.where(
        values < 0, np.searchsorted(edges[1:-1], values, "left"), np.searchsorted(edges[1:-1], values, "right")
    )
    return tuple(np.bincount(places, minlength=len(edges) - 1).tolist())


def of_floats(values):
    """The histogram by the leading 16 bits of 32- or 64-bit floats."""
    width = values.dtype.itemsize * 8
    bits = values.view(np.uint32 if width == 32 else np.uint64) >> (width - 16)
    finite = values[np.isfinite(values)]
    counts = np.bincount(bits.astype(np.int64), minlength=65536).astype(np.uint64)
    return histogram_of_bins(counts, width, moments_of(finite) if len(finite) else EMPTY), finite


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("case", ["normal", "outliers", "positive", "tiny", "few"])
def test_floats_by_their_leading_bits(kind, case) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_000).astype(kind)
    if case == "outliers":
        values[:3] = [900, -4e5, 7e5]
    values = {"positive": np.abs(values) + 1, "tiny": values * kind(1e-30), "few": values[:3]}.get(case, values)
    values = np.concatenate([values, np.array([np.nan, np.inf, -np.inf, 0], kind)])
    found, finite = of_floats(values.astype(kind))
    assert sum(found.counts) == len(finite)
    assert (found.edges[0], found.edges[-1]) == (finite.min(), finite.max())
    assert found.counts == counted(found.edges, finite)
    inner = np.array(found.edges[1:-1]).astype(kind)
    assert np.array_equal(inner, found.edges[1:-1])
    low = inner.view(np.uint32 if kind is np.float32 else np.uint64)
    assert not (low & (1 << (8 * low.itemsize - 16)) - 1).any()  # between bins
    assert len(found.counts) <= 62
    if case == "outliers":
        assert max(found.edges[1:-1]) < 1e5


@pytest.mark.parametrize("name", ["BF16", "F16", "F8_E4M3"])
def test_small_floats_by_their_values(name) -> None:
    kind = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F8_E4M3": ml_dtypes.float8_e4m3fn}[name]
    values = (np.random.default_rng(1).standard_normal(30_000) * 0.02).astype(kind)
    raw = values.view(np.uint8 if values.itemsize == 1 else np.uint16)
    counts = np.bincount(raw, minlength=1 << 8 * values.itemsize).astype(np.uint64)
    patterns = PatternHistogram(DTYPES[name], counts)
    found = histogram_of_values(*patterns.distinct(), patterns.moments())
    assert found.counts == counted(found.edges, values.astype(np.float64))
    assert sum(found.counts) == 30_000
    widths = np.diff(found.edges)
    assert np.allclose(widths[1:-1], widths[1])


def test_of_nothing_of_one_value_and_of_too_much() -> None:
    nothing = np.zeros(0)
    assert histogram_of_values(nothing, nothing.astype(np.uint64), EMPTY) == Histogram()
    same = np.full(7, 0.25)
    assert histogram_of_values(same[:1], np.array([7], np.uint64), moments_of(same)) == Histogram((0.25, 0.25), (7,))
    huge = np.array([-1.5e308, 1.5e308])
    assert histogram_of_values(huge, np.ones(2, np.uint64), moments_of(huge)) == Histogram()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60))
def test_any_floats(held) -> None:
    found, finite = of_floats(np.array(held, np.float32))
    if found.edges:
        assert sum(found.counts) == len(finite)
        zeros = np.signbit(finite) & (finite == 0)
        assert found.counts == counted(found.edges, np.where(zeros, -1e-50, finite.astype(np.float64)))
