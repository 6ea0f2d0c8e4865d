"""The sweep over rows, against numpy in long double; and that blocks and pieces change no bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_oracles import FLOATS, channel_errors, cleaned, extreme, fours, sample

from netweight.dtypes import DTYPES
from netweight.kernels.channels import PIECE
from netweight.kernels.cpu import CpuKernels

CHANNELS = CpuKernels().channels()
ERRORS = ("int8", "int4_128_symmetric", "int4_128_asymmetric", "int4_32_symmetric", "int4_32_asymmetric")


def swept(array, name, block=None):
    """`block` rows at a time."""
    rows, cols = array.shape
    CHANNELS.start(DTYPES[name], rows, cols)
    for first in range(0, rows, block or rows):
        part = np.ascontiguousarray(array[first : first + (block or rows)])
        CHANNELS.add(part.reshape(-1).view(np.uint8), len(part))
    return CHANNELS.partial()


def swept_in_pieces(array, name, piece):
    rows, cols = array.shape
    CHANNELS.start(DTYPES[name], rows, cols)
    for row in array:
        for give in [CHANNELS.add_piece] + [CHANNELS.add_piece_again] * (rows > 1):
            for first in range(0, cols, piece):
                give(np.ascontiguousarray(row[first : first + piece]).view(np.uint8))
    return CHANNELS.partial()


def as_tuple(partial):
    found = dataclasses.asdict(partial)
    maxabs = found.pop("column_maxabs")
    return found, None if maxabs is None else maxabs.tobytes()


def check(found, array, *, relative=3e-5):
    x = cleaned(array)
    rows, _ = x.shape
    energy = float((x.astype(np.longdouble) ** 2).sum())
    for name, expected in zip(ERRORS, channel_errors(x), strict=True):
        error = getattr(found, f"{name}_error")
        if name == "int8" and rows == 1:
            assert error is None
        else:
            # what is left of exact quotients in float32 counts as none
            assert error == pytest.approx(expected, rel=relative, abs=1e-9 * energy), name
    assert (found.fours, found.sparse_fours) == fours(x)
    assert found.dead_rows == (np.abs(x).max(axis=1) <= 1e-6).sum()
    if rows == 1:
        assert found.column_maxabs is None
    else:
        assert (found.column_maxabs == np.abs(x).max(axis=0)).all()


SHAPES = [(1, 1), (5, 1), (3, 4), (7, 31), (4, 127), (6, 128), (3, 333), (2, 4096), (3, 4500), (2, 17000)]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(name, shape):
    array = sample("normal", name, shape)
    check(swept(array, name), array)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", ["heavy", "sparse", "constant", "ternary", "zero", "offset", "mixed"])
def test_kinds(name, kind):
    array = sample(kind, name, (10, 700), seed=1)
    check(swept(array, name), array)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", ["subnormal", "huge", "finite", "any"])
def test_ends_of_the_types(name, kind):
    if name == "F64" and kind != "subnormal":
        return  # squares beyond float64: below
    array = extreme(kind, name, (6, 500), seed=2)
    found = swept(array, name)
    assert all(np.isfinite(getattr(found, f"{e}_error")) for e in ERRORS)
    check(found, array)


def test_squares_beyond_float64_are_infinite_and_never_nan():
    array = np.random.default_rng(3).standard_normal((4, 300)) * 1e305
    found = swept(array, "F64")
    assert [getattr(found, f"{e}_error") for e in ERRORS] == [np.inf] * 5
    array[:] = np.where(array > 0, 1.5e308, -1.5e308)
    found = swept(array, "F64")
    assert found.int8_error == 0
    assert not any(np.isnan(getattr(found, f"{e}_error")) for e in ERRORS)


def test_scales_that_float32_cannot_invert_beside_others():
    array = np.ones((2, 256), np.float32)
    array[0, :128] = np.linspace(-1e-41, 1e-41, 128)
    array[0, 128:160] = np.linspace(1e-35, 2e-33, 32)
    array[1, :32] = np.linspace(-3e38, 3e38, 32)
    array[1, 32:64] = np.linspace(1 - 1e-6, 1, 32)  # a spread that float32 would lose
    x = array.astype(np.float64)
    found = swept(array, "F32")
    check(found, array)
    for part in (x[:1, :128], x[:1, 128:160], x[1:, 32:64]):  # alone: small beside the rest
        alone = np.ascontiguousarray(part.astype(np.float32))
        found = swept(np.repeat(alone, 2, axis=0), "F32")
        expected = channel_errors(np.repeat(alone.astype(np.float64), 2, axis=0))
        errors = [getattr(found, f"{e}_error") for e in ERRORS]
        # int8 errors of a thousandth of a step are at the limit of quotients in float32
        assert errors[0] == pytest.approx(expected[0], rel=3e-5 if alone.min() < 0.9 else 0.03, abs=0)
        assert errors[1:] == pytest.approx(expected[1:], rel=3e-5, abs=0)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64"])
def test_elements_that_are_not_finite_count_as_zeros(name):
    array = sample("normal", name, (8, 5000), seed=4)
    clean = array.copy()
    for row, col, value in [(0, 0, np.nan), (3, 4999, np.inf), (3, 17, -np.inf), (7, 4096, -np.nan)]:
        array[row, col], clean[row, col] = value, 0
    assert as_tuple(swept(array, name)) == as_tuple(swept(clean, name))
    array[2] = np.nan
    clean[2] = 0
    found = swept(array, name)
    assert as_tuple(found) == as_tuple(swept(clean, name))
    assert found.dead_rows == 1


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E4M3"])
@pytest.mark.parametrize("shape", [(13, 700), (6, 20000), (9, 3)], ids=str)
def test_blocks_change_no_bit(name, shape):
    array = sample("mixed", name, shape, seed=5)
    once = as_tuple(swept(array, name))
    for block in (1, 2, 5):
        assert as_tuple(swept(array, name, block)) == once


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E5M2"])
@pytest.mark.parametrize("cols", [5, 4096, 20000, 33333])
def test_pieces_change_no_bit(name, cols):
    array = sample("heavy", name, (3, cols), seed=6)
    once = as_tuple(swept(array, name))
    for piece in (PIECE, 2 * PIECE, 5 * PIECE):
        assert as_tuple(swept_in_pieces(array, name, piece)) == once
    vector = array[:1]
    assert as_tuple(swept_in_pieces(vector, name, PIECE)) == as_tuple(swept(vector, name))


def test_pieces_that_do_not_fit():
    CHANNELS.start(DTYPES["F32"], 2, 10_000)
    with pytest.raises(ValueError, match=r"a piece of 100 elements at column 0 of 10000: expected a multiple of 4096"):
        CHANNELS.add_piece(np.zeros(400, np.uint8))
    CHANNELS.add_piece(np.zeros(4 * PIECE, np.uint8))
    with pytest.raises(RuntimeError, match="4096 of 10000 columns were given: the row is not complete"):
        CHANNELS.add_piece_again(np.zeros(4 * PIECE, np.uint8))
    with pytest.raises(ValueError, match="a piece of 8192 elements at column 4096 of 10000"):
        CHANNELS.add_piece(np.zeros(4 * 8192, np.uint8))
    CHANNELS.add_piece(np.zeros(4 * (10_000 - PIECE), np.uint8))
    with pytest.raises(RuntimeError, match="0 of 10000 columns were given again: the row is not complete"):
        CHANNELS.partial()


def test_every_half_is_widened_exactly():
    patterns = np.arange(65536, dtype=np.uint16).view(np.float16)
    array = np.repeat(patterns[:, None], 2, axis=1).reshape(64, 2048)
    found = swept(array, "F16")
    assert (found.column_maxabs == np.abs(cleaned(array)).max(axis=0)).all()
    column = np.ascontiguousarray(np.stack([patterns, patterns]))
    assert (swept(column, "F16").column_maxabs == np.abs(cleaned(patterns))).all()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["BF16", "F16", "F32", "F8_E4M3"]),
    st.sampled_from(["normal", "heavy", "sparse", "mixed", "offset", "ternary"]),
    st.integers(1, 6),
    st.integers(1, 400),
    st.integers(0, 2**32 - 1),
)
def test_any_matrix(name, kind, rows, cols, seed):
    array = sample(kind, name, (rows, cols), seed)
    found = swept(array, name)
    check(found, array)
    assert as_tuple(swept(array, name, 1)) == as_tuple(found)
