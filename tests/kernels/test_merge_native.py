"""What native blocks give is what widening, computing in float32 and rounding give, bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.dtypes import DTYPES
from netweight.kernels.cpu.merging import CpuMergeKernels
from netweight.kernels.merging import Trim

KERNELS = CpuMergeKernels()
STORED = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32}
NUMBERS = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
SPECIAL = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-40, 6e-8, 3.4e38, 65520.0, -65504.0, 2.0**-133]


def block(name, rows, count, seed, special):
    """A base and models near it, as stored; `special` of the numbers are extreme, or any bits at all."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.02, count)
    x = base + rng.normal(0, 1e-3, (rows, count)) * (rng.random((rows, count)) < 0.7)
    x[0] = base
    for _ in range(special if count else 0):
        x[rng.integers(rows), rng.integers(count)] = rng.choice(SPECIAL)
    with np.errstate(all="ignore"):
        found = x.astype(np.float32).astype(NUMBERS[name])
    patterns = found.view(np.uint32 if name == "F32" else np.uint16)
    for _ in range(special if count else 0):
        patterns[rng.integers(rows), rng.integers(count)] = rng.integers(0, 1 << 8 * patterns.itemsize)
    return found.view(STORED[name])


def widened(native, name):
    x = np.empty(native.shape, np.float32)
    for row, out in zip(native, x, strict=True):
        KERNELS.widen(row.view(np.uint8), DTYPES[name], out)
    return x


def rounded(wide, name):
    out = np.empty(len(wide), STORED[name])
    return out, KERNELS.narrow(wide, DTYPES[name], out.view(np.uint8))


def same(found, bad, wide, name):
    """The bits; of NaN only that they are, since a sum of two of them may be either."""
    expected, how_many = rounded(wide, name)
    assert bad == how_many
    lost = np.isnan(expected.view(NUMBERS[name]).astype(np.float32))
    assert (np.isnan(found.view(NUMBERS[name]).astype(np.float32)) == lost).all()
    kind = np.uint32 if name == "F32" else np.uint16
    assert (found.view(kind)[~lost] == expected.view(kind)[~lost]).all()


names = st.sampled_from(list(STORED))
counts = st.sampled_from([0, 1, 7, 1023, 1024, 1025, 4095, 4096, 4097, 9000]) | st.integers(0, 3000)
seeds = st.integers(0, 10_000)
specials = st.sampled_from([0, 0, 3, 300])


def test_which_types():
    assert [name for name, dtype in DTYPES.items() if KERNELS.fuses(dtype)] == ["F16", "BF16", "F32"]


@pytest.mark.parametrize("name", ["BF16", "F16"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_every_pattern_comes_through(name, rows):
    """Every number as base: widened, left alone and rounded."""
    patterns = np.tile(np.arange(1 << 16, dtype=np.uint16), (rows, 1))
    out = np.empty(1 << 16, np.uint16)
    bad = KERNELS.combine_native(patterns, DTYPES[name], 0, 1.0, [0.0] + [0.5] * (rows - 1), out)
    values = patterns[0].view(NUMBERS[name]).astype(np.float32)
    assert bad == np.count_nonzero(~np.isfinite(values))
    finite = np.isfinite(values)
    assert (out[finite] == patterns[0][finite]).all()
    assert np.isnan(out.view(NUMBERS[name]).astype(np.float32)[np.isnan(values)]).all()


@settings(max_examples=150, deadline=None)
@given(names, st.integers(1, 7), counts, seeds, specials, st.sampled_from([1.0, 0.3, -2.0]), st.data())
def test_combine(name, rows, count, seed, special, scale, data):
    native = block(name, rows, count, seed, special)
    pivot = data.draw(st.integers(0, rows - 1))
    factors = data.draw(st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 1e30, -0.7]), min_size=rows, max_size=rows))
    out, wide = np.empty(count, STORED[name]), np.empty(count, np.float32)
    bad = KERNELS.combine_native(native, DTYPES[name], pivot, scale, factors, out)
    KERNELS.combine(widened(native, name), pivot, scale, factors, wide)
    same(out, bad, wide, name)


trims = st.builds(
    Trim,
    weight=st.sampled_from([1.0, 0.3, -0.5, 0.0]),
    low=st.sampled_from([0.0, 0.0, 1e-3, 5e-4]),
    high=st.sampled_from([np.inf, np.inf, 2e-3]),
    keep=st.sampled_from([1.0, 1.0, 0.5, 0.9, 0.0]),
    factor=st.sampled_from([1.0, 2.0, 1.1]),
    key=st.integers(0, 2**64 - 1),
)


@settings(max_examples=150, deadline=None)
@given(
    names,
    st.lists(trims, min_size=1, max_size=5),
    counts,
    seeds,
    specials,
    st.sampled_from([0, 4096, 3 * 2**40]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 0.5, -1.2]),
)
def test_merge_differences(name, each, count, seed, special, start, elect, normalize, scale):
    native = block(name, len(each) + 1, count, seed, special)
    out, wide = np.empty(count, STORED[name]), np.empty(count, np.float32)
    how = {"elect": elect, "normalize": normalize, "scale": scale}
    bad = KERNELS.merge_differences_native(native, DTYPES[name], each, start, out=out, **how)
    KERNELS.merge_differences(widened(native, name), each, start, out=wide, **how)
    same(out, bad, wide, name)


@settings(max_examples=60, deadline=None)
@given(names, st.integers(2, 6), counts, seeds, specials)
def test_grams(name, rows, count, seed, special):
    native = block(name, rows, count, seed, special)
    x = widened(native, name)
    for size, method in ((rows, "gram"), (rows - 1, "difference_gram")):
        found, expected = np.full((2, size, size), 0.5)
        getattr(KERNELS, f"{method}_native")(native, DTYPES[name], found)
        getattr(KERNELS, method)(x, expected)
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(names, st.integers(2, 5), counts, seeds, specials, st.integers(0, 1))
def test_counts(name, rows, count, seed, special, level):
    native = block(name, rows, count, seed, special)
    x = widened(native, name)
    with np.errstate(all="ignore"):
        leading = np.abs(x[1:] - x[0]).view(np.uint32) >> 16
    prefixes = [[0]] * (rows - 1) if level == 0 else [sorted({0, *own[:3].tolist()}) for own in leading]
    prefixes[-1] = [] if rows > 2 else prefixes[-1]
    found, expected = ([np.zeros((2, len(p), 65536), np.uint32) for p in prefixes] for _ in range(2))
    KERNELS.count_magnitudes_native(native, DTYPES[name], level, prefixes, [f[0] for f in found], [f[1] for f in found])
    KERNELS.count_magnitudes(x, level, prefixes, [e[0] for e in expected], [e[1] for e in expected])
    for a, b in zip(found, expected, strict=True):
        assert (a == b).all()


def test_parts_of_wider_blocks():
    native = block("BF16", 3, 5000, 1, 9)
    part = native[:, 100:4200]
    out, again = np.empty((2, 4100), np.uint16)
    KERNELS.combine_native(part, DTYPES["BF16"], 1, 0.9, [0.2, 0.0, 0.3], out)
    KERNELS.combine_native(part.copy(), DTYPES["BF16"], 1, 0.9, [0.2, 0.0, 0.3], again)
    assert (out == again).all()
