"""A block of a task vector against numpy's singular value decomposition and ml_dtypes' rounding."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from netweight.dtypes import DTYPES
from netweight.statistics.task_vector import block_of

TYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def wide(values):
    return values.astype(np.float32)


def pair(shape=(40, 70), kind="BF16", size=0.05, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(0, 0.02, shape).astype(np.float32).astype(TYPES[kind])
    b = (wide(a) + size * rng.normal(0, 0.02, shape).astype(np.float32)).astype(TYPES[kind])
    return wide(a), wide(b)


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (33, 33), (1, 9), (9, 1)])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_singular_values(shape, kind):
    a, b = pair(shape, kind)
    block = block_of(a, b, DTYPES[kind])
    d = b.astype(np.float64) - a
    d = d[(d != 0).any(axis=1)]
    expected = np.linalg.svd(d, compute_uv=False)
    assert np.allclose(block.spectrum.values, expected, rtol=0, atol=2e-7 * expected[0])
    assert block.spectrum.square_sum == pytest.approx(np.square(d).sum(), rel=1e-12)
    assert (block.rows, block.cols, block.seen) == (*d.shape, shape[0])


def test_singular_values_of_float64():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(30, 50))
    b = a + 1e-13 * rng.normal(size=a.shape)
    expected = np.linalg.svd(b - a, compute_uv=False)
    block = block_of(a, b, DTYPES["F64"])
    assert np.allclose(block.spectrum.values, expected, rtol=0, atol=1e-7 * expected[0])
    assert block.precision == 53


def test_what_changed():
    a = np.array([[1.0, 2.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0], [4.0, 5.0, 6.0, 7.0]], np.float32)
    b = np.array([[1.0, 0.0, 3.5, 2.0], [1.0, 1.0, 1.0, 1.0], [0.0, 5.0, 6.0, 7.0]], np.float32)
    block = block_of(a, b, DTYPES["F32"])
    assert (block.rows, block.seen) == (2, 3), "a row that did not change is left out"
    assert (block.changed, block.zeroed) == (4, 2)


def test_nothing_changed():
    a, _ = pair()
    block = block_of(a, a.copy(), DTYPES["BF16"])
    assert (block.rows, block.seen, block.changed, block.nonfinite) == (0, 40, 0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite(value, side):
    sides = pair()
    sides[side][3, 5] = value
    block = block_of(*sides, DTYPES["BF16"])
    assert (block.nonfinite, block.changed) == (1, 0)
    assert not block.spectrum.defined


@pytest.mark.parametrize("kind", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_errors_are_those_of_half_steps(kind):
    """Against the distance to the number of the next bit pattern."""
    a, b = pair(kind=kind, size=3.0)
    magnitudes = np.abs(b).astype(TYPES[kind])
    following = (magnitudes.view(f"u{magnitudes.itemsize}") + 1).astype(f"u{magnitudes.itemsize}")
    step = wide(following.view(magnitudes.dtype)).astype(np.float64) - wide(magnitudes)
    block = block_of(a, b, DTYPES[kind])
    assert block.uniform == pytest.approx((step**2 / 12).sum(), rel=1e-9)
    assert block.rounding.total <= block.uniform * (1 + 1e-12)
    rows, cols = ((step**2 / 12).sum(axis=axis).max() for axis in (1, 0))
    assert block.rounding.edge <= (np.sqrt(rows) + np.sqrt(cols)) * (1 + 1e-12)


def test_bfloat16_that_was_widened_is_still_bfloat16():
    a, b = pair()
    narrow, widened = block_of(a, b, DTYPES["BF16"]), block_of(a, b, DTYPES["F32"])
    assert (narrow.precision, widened.precision) == (8, 8)
    assert widened.rounding == narrow.rounding


@pytest.mark.parametrize("kind", ["BF16", "F16"])
def test_errors_of_rounding_stay_below_the_edge(kind):
    """b is a wanted value, rounded: the errors are known, and so is the largest singular value of them."""
    rng = np.random.default_rng(3)
    a = wide((rng.normal(0, 0.02, (200, 400)) * np.exp(rng.normal(0, 0.5, (200, 1)))).astype(TYPES[kind]))
    wanted = a.astype(np.float64) + rng.normal(0, 0.02, a.shape)
    b = wide(wanted.astype(np.float32).astype(TYPES[kind]))
    block = block_of(a, b, DTYPES[kind])
    largest = np.linalg.norm(b - wanted, 2)
    assert 0.5 * block.rounding.edge < largest < block.rounding.edge
    assert np.square(b - wanted).sum() == pytest.approx(block.rounding.total, rel=0.02)


@pytest.mark.parametrize(("source", "target"), [("F32", "BF16"), ("F32", "F16"), ("BF16", "F16"), ("F16", "BF16")])
def test_a_copy_in_another_precision(source, target):
    a, _ = pair(kind=source)
    a[0, :5] = [1e-7, 6e-8, 3e-6, 1e-5, -2e-5]  # below the smallest normal number of float16
    a = wide(a.astype(TYPES[source]))
    b = wide(a.astype(TYPES[target]))
    block = block_of(a, b, DTYPES[target])
    assert block.changed > 0
    assert block.recast == block.rows * block.cols
    b[-1, -1] = 1.0
    block = block_of(a, b, DTYPES[target])
    assert block.recast == block.rows * block.cols - 1


def test_scales():
    a, _ = pair(kind="F32")
    a = a.astype(np.float64)
    rows, cols = (np.random.default_rng(4).uniform(0.5, 1.5, shape) for shape in ((40, 1), (1, 70)))
    for number, factor in enumerate((0.75, rows, cols)):
        block = block_of(a, a * factor, DTYPES["F64"])
        assert block.unscaled[number] < 1e-20 * block.spectrum.square_sum
        assert sum(left < 1e-9 * block.spectrum.square_sum for left in block.unscaled) == (3 if number == 0 else 1)
    assert block_of(a, 0.75 * a, DTYPES["F64"]).scale == pytest.approx(0.75, rel=1e-12)


def test_the_rest_of_scaled_rows():
    rng = np.random.default_rng(5)
    a = rng.normal(size=(60, 300))
    product = 0.3 * rng.normal(size=(60, 4)) @ rng.normal(size=(4, 300))
    rows = np.exp(0.3 * rng.normal(size=(60, 1)))
    block = block_of(a, rows * (a + product), DTYPES["F64"])
    assert block.row_spectrum is not None
    d = rows * (a + product) - a
    scale = (d * a).sum(axis=1) / (a * a).sum(axis=1)
    expected = np.linalg.svd(d - scale[:, None] * a, compute_uv=False)
    assert np.allclose(block.row_spectrum.values, expected, rtol=0, atol=1e-7 * expected[0])
    assert expected[4] < block.row_errors[0].edge < expected[3]
    assert block_of(a, a + product, DTYPES["F64"]).row_spectrum is None, "no row is scaled"


def test_values_in_groups():
    rng = np.random.default_rng(6)
    a = rng.normal(size=(64, 128)).astype(np.float32)
    b = np.rint(a * 3) / 3
    block = block_of(a, b, DTYPES["F32"])
    groups = b.reshape(-1, 32)
    counted = np.median([len(set(row.tolist())) for row in groups])
    assert abs(block.levels - counted) <= 1
    assert block.levels_a == 32
    assert block_of(a[:, :20], b[:, :20], DTYPES["F32"]).levels == 0


def test_how_many_of_the_smallest_changed():
    rng = np.random.default_rng(7)
    a = rng.normal(size=(128, 256)).astype(np.float32)
    mask = rng.random(a.shape) < 0.2
    block = block_of(a, np.where(mask, a + 1, a).astype(np.float32), DTYPES["F32"])
    magnitudes = np.frexp(np.abs(a))[1]
    for share, (n, changed) in ((0.02, block.smallest), (0.0025, block.tiniest)):
        binade = np.sort(magnitudes, axis=None)[int(np.ceil(share * a.size)) - 1]
        assert (n, changed) == ((magnitudes <= binade).sum(), (mask & (magnitudes <= binade)).sum())
    zeros = np.zeros((20, 20), np.float32)
    assert block_of(zeros, zeros + 1, DTYPES["F32"]).smallest == (0, 0)


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_values_at_the_ends_of_float64(size):
    rng = np.random.default_rng(8)
    a = size * rng.normal(size=(20, 30))
    b = a * (1 + rng.normal(size=a.shape))
    block = block_of(a, b, DTYPES["F64"])
    with np.errstate(over="ignore"):
        assert np.isinf(block.spectrum.square_sum) == (size > 1)
    expected = np.linalg.svd(b - a, compute_uv=False)
    assert np.allclose(block.spectrum.values / size, expected / size, rtol=0, atol=1e-6 * expected[0] / size)
