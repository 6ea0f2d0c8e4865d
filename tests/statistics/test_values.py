"""What is known of all elements of a matrix, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from array_matrix import ArrayMatrix
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_oracles import FLOATS, extreme, sample

from netweight.dtypes import DTYPES
from netweight.kernels.cpu import CpuKernels
from netweight.passes.matrices import Scratch, gather
from netweight.statistics.difference import PROBABILITIES
from netweight.statistics.values import (
    ABS_PROBABILITIES,
    ABS_QUANTILES,
    COUNTS,
    INT8,
    MOMENTS,
    NEEDS,
    OUTSIDE,
    QUANTILES,
    SPARSITY,
    THRESHOLDS,
    Int8Sums,
)

SCRATCH = Scratch(CpuKernels())


def values_of(array, name, needs=NEEDS, scratch=SCRATCH):
    return gather(ArrayMatrix(array, name), scratch, needs).values


def quantized(x):
    """x' of symmetric per-tensor int8 with its scale, as torch and numpy code does it."""
    scale = np.abs(x).max() / 127
    return scale, np.clip(np.rint(x / scale), -128, 127) * scale


def check(found, array):
    with np.errstate(invalid="ignore"):
        every = array.astype(np.float64).reshape(-1)
    x = every[np.isfinite(every)]
    assert (found.n, found.n_nan, found.n_inf) == (every.size, np.isnan(every).sum(), np.isinf(every).sum())
    assert found.n_zero == (every == 0).sum()
    assert found.at_most == {t: (np.abs(every) <= t).sum() for t in THRESHOLDS}
    assert found.moments.n == x.size
    if not x.size:
        assert (found.quantiles, found.abs_quantiles, found.outside, found.int8) == ((), (), None, None)
        return
    with np.errstate(over="ignore", invalid="ignore"):
        expected = [float(np.quantile(x, p)) for p in PROBABILITIES]
        assert np.array_equal(found.quantiles, expected, equal_nan=True)
        assert np.array_equal(
            found.abs_quantiles, [float(np.quantile(np.abs(x), p)) for p in ABS_PROBABILITIES], equal_nan=True
        )
        q25, q75 = expected[4], expected[6]
        for k, (low, high, count) in {
            1.5: (found.outside.low, found.outside.high, found.outside.count),
            3.0: (found.outside.extreme_low, found.outside.extreme_high, found.outside.extreme_count),
        }.items():
            assert (low, high) == (q25 - k * (q75 - q25), q75 + k * (q75 - q25))
            assert count == ((x < low) | (x > high)).sum()
    check_int8(found, x)


def check_int8(found, x):
    if not np.abs(x).max() / 127:
        assert found.int8 == Int8Sums(0, 0, 0, 0, 0)
        return
    with np.errstate(over="ignore"):
        scale, back = quantized(x)
        e = x - back
        sums = [float(np.sum(v)) for v in (e * e, np.abs(e), x * back, back * back)]
    assert found.int8.scale == scale
    if np.mean(np.abs(e) / scale) < 2.0**-43:
        sums[:2] = [0.0, 0.0]
    got = (found.int8.error_square, found.int8.error_absolute, found.int8.product, found.int8.quantized_square)
    # numpy sums all elements: 1e-12 is far above what the order of float64 sums can change
    assert got == pytest.approx(sums, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse", "constant", "ternary", "zero", "offset", "mixed"])
def test_kinds(name, kind):
    array = sample(kind, name, (37, 301), seed=1)
    check(values_of(array, name), array)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", ["subnormal", "huge", "finite", "any"])
def test_ends_of_the_types(name, kind):
    array = extreme(kind, name, (11, 400), seed=2)
    check(values_of(array, name), array)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 2), (2, 1), (1, 9999), (9999, 1)], ids=str)
def test_shapes(name, shape):
    array = sample("normal", name, shape, seed=3)
    check(values_of(array, name), array)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E5M2"])
def test_elements_that_are_not_finite_are_counted_and_left_out(name):
    array = sample("heavy", name, (50, 100), seed=4)
    array[0, :5], array[1, :7], array[2, :11] = np.nan, np.inf, -np.inf
    check(values_of(array, name), array)
    array[:] = np.nan
    check(values_of(array, name), array)


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_many_elements_take_a_second_look(name):
    """More residual values than are kept: quantiles by radix selection."""
    array = sample("normal", name, (1100, 1024), seed=5)
    array[3, 4], array[5, 6] = np.nan, np.inf
    array[:, 7] = array[:, 8]
    check(values_of(array, name), array)


def test_thresholds_compare_exactly():
    t = np.array(THRESHOLDS[1:])
    near = [np.float32(t), np.nextafter(np.float32(t), np.float32(1)), np.nextafter(np.float32(t), np.float32(0))]
    array = np.concatenate([s * np.concatenate(near) for s in (1, -1)]).astype(np.float32)[None, :]
    check(values_of(array, "F32"), array)
    wide = np.concatenate([t, np.nextafter(t, 1), -np.nextafter(t, 0)])[None, :]
    check(values_of(wide, "F64"), wide)


def test_only_what_is_asked_for_is_looked_at():
    array = sample("normal", "F32", (1100, 1024), seed=6)
    looks = {}
    for needs in [{MOMENTS}, {QUANTILES, SPARSITY}, {QUANTILES, ABS_QUANTILES}, {INT8}, {COUNTS}, {OUTSIDE, INT8}]:
        matrix = ArrayMatrix(array, "F32")
        found = gather(matrix, SCRATCH, frozenset(needs)).values
        looks[" ".join(sorted(n.removeprefix("values.") for n in needs))] = matrix.bytes_read / array.nbytes
        assert (found.int8 is not None) == (INT8 in needs)
        assert (found.outside is not None) == (OUTSIDE in needs)
        assert (found.abs_quantiles != ()) == (ABS_QUANTILES in needs)
        assert (found.quantiles != ()) == bool(needs & {QUANTILES, OUTSIDE})
        assert set(found.at_most) == set(
            THRESHOLDS if COUNTS in needs else THRESHOLDS[:2] if SPARSITY in needs else THRESHOLDS[:1]
        )
    assert looks == {
        "moments": 1, "quantiles sparsity": 2, "abs_quantiles quantiles": 2, "int8": 2, "counts": 2, "int8 outside": 3,
    }  # fmt: skip
    upcast = (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    matrix = ArrayMatrix(upcast, "F32")
    check(gather(matrix, SCRATCH, NEEDS).values, upcast)
    assert matrix.bytes_read == upcast.nbytes  # the leading bits are all there are


def test_what_rounding_alone_leaves_is_no_error():
    scale, n = 0.375, 6
    most = n * scale * 2.0**-43
    assert Int8Sums.of(scale, n, (1.0, most, 2.0, 3.0)) == Int8Sums(scale, 0.0, 0.0, 2.0, 3.0)
    more = float(np.nextafter(most, 1))
    assert Int8Sums.of(scale, n, (1.0, more, 2.0, 3.0)) == Int8Sums(scale, 1.0, more, 2.0, 3.0)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64"])
def test_the_buffer_changes_no_bit(name):
    array = sample("heavy", name, (700, 999), seed=7)
    once = values_of(array, name)
    assert values_of(array, name, scratch=Scratch(CpuKernels(), 1 << 16)) == once
    assert values_of(array.reshape(1, -1), name) == once


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(FLOATS),
    st.sampled_from(["subnormal", "huge", "finite", "any", "normal", "sparse", "ternary"]),
    st.integers(0, 5),
    st.integers(1, 90),
    st.integers(0, 2**32 - 1),
)
def test_any_matrix(name, kind, rows, cols, seed):
    ends = kind in ("subnormal", "huge", "finite", "any")
    array = (
        (extreme if ends else sample)(kind, name, (rows, cols), seed)
        if rows
        else np.zeros((0, cols), DTYPES[name].to_numpy())
    )
    check(values_of(array, name), array)
