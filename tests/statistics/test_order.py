"""Radix selection and numpy's "linear" quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.statistics import order

WIDTHS = [32, 64]
KINDS = {32: (np.uint32, np.float32), 64: (np.uint64, np.float64)}


def select(values, ranks, width):
    """Every rank by bins alone, down to the last bit."""
    bits = values.view(KINDS[width][0]).astype(np.uint64)
    counts = np.bincount((bits >> np.uint64(width - 16)).astype(np.int64), minlength=65536)
    bins = order.occupied_bins(counts)
    found = order.locate(bins, counts[bins], ranks)
    while 16 * found[0].level < width:
        stepped = []
        for rank in found:
            shift = np.uint64(width - 16 * rank.level)
            inside = bits[bits >> shift == rank.prefix] >> (shift - np.uint64(16)) & np.uint64(0xFFFF)
            stepped.append(order.step_down(rank, np.bincount(inside.astype(int), minlength=65536)))
        found = stepped
    return order.bits_to_values(np.array([r.prefix for r in found], np.uint64), width)


floats = {w: st.floats(allow_nan=False, allow_infinity=False, width=w) for w in WIDTHS}


@pytest.mark.parametrize("width", WIDTHS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_rank_of_any_values(width, data):
    values = np.array(data.draw(st.lists(floats[width], min_size=1, max_size=40)), KINDS[width][1])
    ranks = sorted(data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1, max_size=5)))
    assert (select(values, ranks, width) == np.sort(values)[ranks].astype(np.float64)).all()


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=200), st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_interpolation_is_numpys_bit_for_bit(values, probabilities):
    x = np.sort(np.array(values))
    ranks = order.needed_ranks(len(x), probabilities)
    assert ranks == sorted(set(ranks))
    known = {rank: float(x[rank]) for rank in ranks}
    found = order.interpolate(len(x), probabilities, known)
    assert found == [float(np.quantile(x, p)) for p in probabilities]
    assert not any(str(v) == "-0.0" for v in found)


@pytest.mark.parametrize("n", [1, 2, 3, 100, 101, 1 << 24, (1 << 31) + 7])
def test_needed_ranks(n):
    found = order.needed_ranks(n, (0.0, 0.5, 0.99, 1.0))
    assert found[0] == 0
    assert found[-1] == n - 1
    assert len(found) <= 8


@pytest.mark.parametrize("width", WIDTHS)
def test_bins(width):
    values = order.bin_values(width)
    finite = order.finite_bins(width)
    assert (np.isfinite(values) == finite).all()
    ascending = values[order.occupied_bins(np.ones(65536))]
    kept = ascending[np.isfinite(ascending)]
    assert (np.diff(kept) >= 0).all()
    bits = np.uint64(width - 16)
    infinite = [np.uint64(b) << bits for b in order.infinite_bins(width)]
    kind = KINDS[width]
    assert [float(np.array([b]).astype(kind[0]).view(kind[1])[0]) for b in infinite] == [np.inf, -np.inf]


@pytest.mark.parametrize("width", WIDTHS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_picking_among_coarse_and_residual_values(width, data):
    """One bin: values whose low bits are zero are only counted, the others are handed over."""
    prefix = data.draw(st.integers(0, 65535).filter(lambda b: order.finite_bins(width)[b]))
    coarse = data.draw(st.integers(0, 5))
    low = data.draw(st.lists(st.integers(1, (1 << (width - 16)) - 1), max_size=8, min_size=0 if coarse else 1))
    kind = KINDS[width]
    residuals = np.array([prefix << (width - 16) | bits for bits in low], dtype=kind[0])
    every = np.array([prefix << (width - 16)] * coarse, dtype=kind[0])
    values = np.sort(np.concatenate([every, residuals]).view(kind[1]).astype(np.float64))
    for local in range(len(values)):
        rank = order.Rank(rank=local, prefix=prefix, local=local, level=1)
        assert order.pick_from(rank, coarse, residuals, width) == values[local]
