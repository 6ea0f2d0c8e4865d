"""Counts packed for another process come back equal, and small."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from netweight.kernels.packing import pack, unpack
from netweight.kernels.protocol import MOVED, DifferencePartial, Window


@given(
    hnp.arrays(st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64, np.float64]), hnp.array_shapes(min_side=0))
)
def test_round_trip(array):
    found = unpack(pack(array))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
    assert found.flags.writeable


def test_a_part_of_a_wider_array():
    array = np.arange(60, dtype=np.uint32).reshape(6, 10)[::2, 1:7]
    np.testing.assert_array_equal(unpack(pack(array)), array)


def test_histograms_become_small():
    counts = np.zeros((2, 65536), np.uint32)
    counts[:, 0x3C00:0x3D00] = 1000
    assert len(pack(counts)[2]) < counts.nbytes / 100


def partial(residuals):
    rng = np.random.default_rng(0)
    residual = rng.integers(0, 9, (len(residuals), 65536), dtype=np.uint32)
    return DifferencePartial(
        Window(32),
        residual + rng.integers(0, 1 << 24, residual.shape, dtype=np.uint32),
        residual,
        rng.standard_normal((len(residuals), 8)),
        residuals,
        rng.standard_normal((2, 2)),
        1.5,
    )


@pytest.mark.parametrize(("count", "kept"), [(0, True), (1000, True), (MOVED, True), (MOVED + 1, False)])
def test_a_partial_keeps_all_but_too_many_residual_values(count, kept):
    given = partial((np.arange(count, dtype=np.uint32), None))
    found = pickle.loads(pickle.dumps(given))
    for name in ("counts", "residual_counts", "residual_sums", "gram"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    assert (found.window, found.base_square, found.residuals[1]) == (given.window, 1.5, None)
    assert (found.residuals[0] is not None) == kept
    if kept:
        np.testing.assert_array_equal(found.residuals[0], given.residuals[0])
