"""What is known of rows, columns and groups of a matrix."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from array_matrix import ArrayMatrix
from matrix_oracles import FLOATS, channel_errors, cleaned, fours, group_error, sample

from netweight.kernels.channels import ChannelPartial
from netweight.kernels.cpu import CpuKernels
from netweight.passes.matrices import Scratch, gather
from netweight.statistics.channels import CHANNELS, Channels

SCRATCH = Scratch(CpuKernels())
ERRORS = ("int8", "int4_g128_symmetric", "int4_g128_asymmetric", "int4_g32_symmetric", "int4_g32_asymmetric")


def channels_of(array, name):
    return gather(ArrayMatrix(array, name), SCRATCH, frozenset({CHANNELS})).channels


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", [(1, 300), (1, 1), (300, 1), (40, 200), (0, 7), (7, 0), (1, 0)], ids=str)
def test_shapes(name, shape):
    array = sample("normal", name, shape, seed=1)
    found = channels_of(array, name)
    x = cleaned(array)
    assert (found.rows, found.cols) == shape
    if not array.size:
        assert [getattr(found, e) for e in ERRORS] == [0] * 5
        assert (found.dead_rows, found.dead_columns, found.fours, found.sparse_fours) == (0, 0, 0, 0)
        return
    assert [getattr(found, e) for e in ERRORS] == pytest.approx(channel_errors(x), rel=3e-5, abs=1e-9 * (x**2).sum())
    assert found.dead_rows == (np.abs(x) <= 1e-6).all(axis=1).sum()
    assert found.dead_columns == (np.abs(x) <= 1e-6).all(axis=0).sum()
    assert (found.fours, found.sparse_fours) == fours(x)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E4M3"])
@pytest.mark.parametrize("rows", [1, 12])
def test_dead_rows_columns_and_elements_that_are_not_finite(name, rows):
    array = sample("heavy", name, (rows, 600), seed=2)
    array[:, 5:9] = 0
    array[:, 20] = np.nan
    array[:, 21] = np.nan if name == "F8_E4M3" else np.inf
    if rows > 1:
        array[3] = 0
        array[4] = np.nan
    found = channels_of(array, name)
    x = cleaned(array)
    assert found.dead_columns == (np.abs(x) <= 1e-6).all(axis=0).sum() >= 6
    assert found.dead_rows == (np.abs(x) <= 1e-6).all(axis=1).sum() == (2 if rows > 1 else 0)
    assert (found.fours, found.sparse_fours) == fours(x)
    assert [getattr(found, e) for e in ERRORS] == pytest.approx(channel_errors(x), rel=3e-5, abs=0)


def test_the_threshold_of_dead_channels():
    t = np.float32(1e-6)  # a little below 1e-6
    above = np.nextafter(t, np.float32(1))
    array = np.array([[t, -t, 0, above], [0, t, t, -above], [-t, t, -t, 0]], np.float32)
    found = channels_of(array, "F32")
    assert (found.dead_rows, found.dead_columns) == (1, 3)


def test_a_vector_has_one_scale():
    array = sample("normal", "BF16", (1, 5000), seed=3)
    found = channels_of(array, "BF16")
    assert found.int8 == pytest.approx(group_error(cleaned(array), 127, symmetric=True), rel=1e-12)
    assert found.column_maxabs is None


def test_a_vector_needs_its_values():
    partial = ChannelPartial(None, 0.0, 0.0, 0.0, 0.0, None, 0, 0, 0)
    with pytest.raises(ValueError, match="channels of one row: expected values with int8 sums and the count of abs"):
        Channels.of(1, 4, partial, None)


def test_exact_quotients_leave_no_error():
    array = sample("ternary", "BF16", (64, 512), seed=4)
    found = channels_of(array, "BF16")
    assert [getattr(found, e) for e in ERRORS if "asymmetric" not in e] == [0, 0, 0]
    assert dataclasses.replace(found, int8=1.0).int8 == 1.0


def test_a_vector_of_nothing_finite():
    found = channels_of(np.full((1, 40), np.nan, np.float32), "F32")
    assert (found.int8, found.dead_rows, found.dead_columns) == (0, 1, 40)
