"""Pairs of elements against plain numpy in float64 (longdouble for the sums), every element type with every other."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.dtypes import DTYPES, Kind
from netweight.kernels.protocol import CHUNK

FLOATS = [name for name, d in DTYPES.items() if d.kind is Kind.FLOAT]


@pytest.fixture(scope="module")
def feed(kernels):
    """`feed_to` an accumulator that all tests of one backend use in turn."""
    return partial(feed_to, kernels.pairs())


def feed_to(accumulator, a, b, *, block=None):
    """The partial of two arrays, in blocks of `block` elements."""
    names = {d.to_numpy(): d for d in DTYPES.values() if d.kind is Kind.FLOAT}
    accumulator.start(names[a.dtype], names[b.dtype])
    block = block or accumulator.block
    assert block <= accumulator.block
    for start in range(0, len(a), block):
        count = min(block, len(a) - start)
        for buffer, array in zip(accumulator.buffers, (a, b), strict=True):
            raw = array[start : start + count].view(np.uint8)
            buffer[: len(raw)] = raw
        accumulator.add(count)
    return accumulator.partial()


def expected(a, b):
    """What the protocol says, by numpy: counts from float64, sums in longdouble."""
    wide = np.float64 if np.float64 in (a.dtype, b.dtype) else np.float32
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        a, b = a.astype(wide), b.astype(wide)
        d = b - a
        good = np.isfinite(a) & np.isfinite(b) & np.isfinite(d)
        a, b, d = (v[good].astype(np.float64) for v in (a, b, d))
        x, y, z = (v.astype(np.longdouble) for v in (a, b, d))
        found = {
            "n": len(a),
            "n_nonfinite": int((~good).sum()),
            "n_identical": int((a == b).sum()),
            "n_significant": int((np.abs(d) / (np.abs(a) + 1e-10) > 0.01).sum()),
            "n_flipped": int((np.sign(a) * np.sign(b) < 0).sum()),
        }
        if len(a):
            ma, mb, md = x.mean(), y.mean(), z.mean()
            found |= {"mean_a": ma, "mean_b": mb, "mean_d": md}
            found |= {"m2_a": ((x - ma) ** 2).sum(), "m2_b": ((y - mb) ** 2).sum(), "m2_d": ((z - md) ** 2).sum()}
            found |= {"comoment": ((x - ma) * (y - mb)).sum(), "absolute": np.abs(z).sum()}
            found |= {"minimum": d.min(), "maximum": d.max()}
            found["scales"] = [np.abs(v).sum() for v in (x, y, z)]
    return found


def check(partial, a, b):
    want = expected(a, b)
    for name in ("n", "n_nonfinite", "n_identical", "n_significant", "n_flipped"):
        assert getattr(partial, name) == want[name], name
    if not want["n"]:
        assert (partial.minimum, partial.maximum) == (np.inf, -np.inf)
        assert (partial.m2_a, partial.m2_d, partial.absolute) == (0, 0, 0)
        return
    n = want["n"]
    assert (partial.minimum, partial.maximum) == (want["minimum"], want["maximum"])
    assert partial.absolute == pytest.approx(float(want["absolute"]), rel=1e-12, abs=0)
    least = np.finfo(np.float64).smallest_subnormal
    for side, scale in zip("abd", want["scales"], strict=True):
        mean, m2 = want[f"mean_{side}"], want[f"m2_{side}"]
        assert abs(getattr(partial, f"mean_{side}") - mean) <= 1e-13 * scale / n + least
        assert (
            abs(getattr(partial, f"m2_{side}") - m2) <= 1e-11 * m2 + 1e-26 * scale * scale / n + 1e-300
        )  # squares underflow
    size = 1e-290 + np.sqrt(want["m2_a"] * want["m2_b"]) + 1e-15 * want["scales"][0] * want["scales"][1] / n
    assert abs(partial.comoment - want["comoment"]) <= 1e-11 * size


def normal(n, seed, scale=0.02):
    return np.random.default_rng(seed).standard_normal(n) * scale


@pytest.mark.parametrize("second", FLOATS)
@pytest.mark.parametrize("first", FLOATS)
def test_every_pair_of_types(feed, first, second):
    kinds = [DTYPES[name].to_numpy() for name in (first, second)]
    a = np.abs(normal(9000, 1)) if "E8M0" in first + second else normal(9000, 1)
    b = a * (1 + normal(9000, 2, 0.1))
    with np.errstate(all="ignore"):
        a, b = a.astype(kinds[0]), b.astype(kinds[1])
    check(feed(a, b), a, b)


@pytest.mark.parametrize("name", ["BF16", "F16", "F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_every_pattern(feed, name):
    """All values of a small type, NaN and infinities among them, against a shuffle of themselves."""
    dtype = DTYPES[name]
    patterns = np.arange(1 << dtype.bits, dtype=f"u{dtype.bits // 8}")
    shuffled = np.random.default_rng(0).permutation(patterns)
    a, b = patterns.view(dtype.to_numpy()), shuffled.view(dtype.to_numpy())
    check(feed(a, b), a, b)
    check(feed(a, a), a, a)


bits = st.one_of(
    st.integers(0, 0xFFFF),
    st.sampled_from([0, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x0001, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F]),
)


@given(st.lists(st.tuples(bits, bits), min_size=0, max_size=40), st.integers(0, 2 * CHUNK))
@settings(max_examples=150, deadline=None)
def test_any_bfloat16(feed, pairs, padding):
    """Any patterns, after a stretch of equal values that puts them at any place of a chunk."""
    lead = np.full(padding, 0x3C12, np.uint16)
    kind = DTYPES["BF16"].to_numpy()
    a, b = (np.concatenate([lead, np.array([p[i] for p in pairs], np.uint16)]).view(kind) for i in (0, 1))
    check(feed(a, b), a, b)


doubles = st.floats(width=64, min_value=-1e100, max_value=1e100) | st.sampled_from([np.nan, np.inf, -np.inf, -0.0])


@given(st.lists(st.tuples(doubles, doubles), max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_double(feed, pairs):
    a, b = (np.array([p[i] for p in pairs], np.float64) for i in (0, 1))
    check(feed(a, b), a, b)


def test_changes_at_the_threshold(feed):
    """A hundredth of bfloat16's 1.5625 is a power of two: the quotient decides by less than float32 can tell."""
    a = np.array([1.5625, -1.5625, 3.125, 200 * 2.0**20, 200 * 2.0**30, 1e-9, 0, 0], np.float32)
    b = (a + np.array([1, -1, 2, 128 * 2.0**20 / 64, 2 * 2.0**30, 1e-11, 1e-12, 1.1e-12], np.float32) / 64).astype("f4")
    check(feed(a, b), a, b)
    scales = 2.0 ** np.arange(-60, 60)
    a = np.outer(np.arange(128, 256), scales).ravel().astype(np.float32)
    for step in (-4, -2, -1, 1, 2, 4):
        b = (a + np.tile(scales * step, 128)).astype(np.float32)
        check(feed(a, b), a, b)


@given(st.integers(1, (1 << 53) - 1), st.integers(-3, 3), st.integers(-300, 300))
@settings(max_examples=200, deadline=None)
def test_doubles_next_to_the_threshold(feed, mantissa, ulps, exponent):
    """Differences that are a hundredth of the value but for some units in the last place."""
    a = np.ldexp(np.float64(mantissa), exponent)
    d = 0.01 * a
    for _ in range(abs(ulps)):
        d = np.nextafter(d, np.inf if ulps > 0 else 0)
    a, b = np.array([0.0, a, a]), np.array([d, a + d, a - d])
    check(feed(a, b), a, b)


def test_the_sums_do_not_depend_on_blocks(feed, kernels):
    """Bit for bit on the CPU, whose chunks are the same in any block; elsewhere but for rounding."""
    a, b = normal(100_001, 3).astype("f4"), normal(100_001, 4).astype("f4")
    whole = feed(a, b)
    others = [feed(a, b, block=CHUNK * k) for k in (1, 2, 5)] + [feed_to(kernels.pairs(), a, b)]
    if kernels.name == "cpu":
        assert others == [whole] * 4
    for other in others:
        check(other, a, b)
        assert dataclasses.astuple(other) == pytest.approx(dataclasses.astuple(whole), rel=1e-9, abs=1e-15)


def test_equal_tensors(feed):
    a = normal(50_001, 5).astype(DTYPES["BF16"].to_numpy())
    found = feed(a, a.copy())
    check(found, a, a)
    assert (found.n_identical, found.absolute, found.minimum, found.maximum) == (50_001, 0, 0, 0)
    assert (found.mean_a, found.m2_a) == (found.mean_b, found.m2_b)
    assert found.comoment == found.m2_a
    holed = a.copy()
    holed[[0, 7000, 50_000]] = [np.nan, np.inf, -np.inf]
    check(feed(holed, holed), holed, holed)
    negative = np.zeros(5000, "f4")
    negative[::2] = -0.0
    check(feed(negative, np.zeros(5000, "f4")), negative, np.zeros(5000, "f4"))


def test_some_chunks_are_equal(feed):
    """Equal chunks take a way of their own: its sums must be those of the other."""
    a = normal(20 * CHUNK, 6).astype("f4") + np.repeat(np.arange(20, dtype="f4"), CHUNK)
    b = a.copy()
    b[3 * CHUNK : 5 * CHUNK] *= 1.5
    b[9 * CHUNK + 17] += 1
    check(feed(a, b), a, b)


@pytest.mark.parametrize("where", [slice(None), slice(0, 1), slice(4095, 4097), slice(0, None, 3), slice(5000, None)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite(feed, where, value, side):
    arrays = [normal(9000, 7).astype("f4"), normal(9000, 8).astype("f4")]
    arrays[side][where] = value
    check(feed(*arrays), *arrays)


def test_a_difference_beyond_float32_is_not_finite(feed):
    a, b = np.array([-3e38, 1, 2], "f4"), np.array([3e38, 1, 3], "f4")
    found = feed(a, b)
    check(found, a, b)
    assert (found.n, found.n_nonfinite) == (2, 1)


def test_a_far_mean_costs_no_digits(feed):
    """Values near 1000 that differ by a millionth; and a first chunk of zeros, far from all that follow."""
    a = (1000 + normal(40_000, 9, 1e-3)).astype(np.float64)
    b = a + 1e-6 * normal(40_000, 10, 1)
    check(feed(a, b), a, b)
    a[:CHUNK] = b[:CHUNK] = 0
    check(feed(a, b), a, b)
    a = np.full(10_000, 0.1, "f4")
    found = feed(a, a * 3)
    assert (found.m2_a, found.m2_b, found.m2_d) == (0, 0, 0)


def test_tiny_values_change_signs(feed):
    """Products of these are zero in float32; their signs are not."""
    a, b = np.array([1e-30, -1e-42, 1e-30, 0], "f4"), np.array([-1e-30, 1e-42, 1e-30, -1], "f4")
    assert feed(a, b).n_flipped == 2


def test_nothing(feed):
    found = feed(np.zeros(0, "f4"), np.zeros(0, "f4"))
    check(found, np.zeros(0, "f4"), np.zeros(0, "f4"))


def test_memory_is_what_it_says(kernels):
    found = kernels.pairs()
    assert sum(b.nbytes for b in found.buffers) <= found.nbytes <= (2 << 20 if kernels.name == "cpu" else 256 << 20)
