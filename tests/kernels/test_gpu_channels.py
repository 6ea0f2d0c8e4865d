"""Rows, columns and groups, on every backend, against numpy in long double; torch in float64 to 1e-9."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from accumulator_backends import BACKENDS, DEVICES, Backend, short_of_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_oracles import FLOATS, channel_errors, cleaned, extreme, fours, sample

from netweight.dtypes import DTYPES
from netweight.kernels.channels import PIECE
from netweight.kernels.faults import DeviceOutOfMemory

ERRORS = ("int8", "int4_128_symmetric", "int4_128_asymmetric", "int4_32_symmetric", "int4_32_asymmetric")


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return request.param


def swept(backend, array, name, block=None):
    """`block` rows at a time."""
    channels = backend.channels()
    rows, cols = array.shape
    channels.start(DTYPES[name], rows, cols)
    for first in range(0, rows, block or rows):
        part = np.ascontiguousarray(array[first : first + (block or rows)])
        channels.add(part.reshape(-1).view(np.uint8), len(part))
    return channels.partial()


def swept_in_pieces(backend, array, name, piece):
    channels = backend.channels()
    rows, cols = array.shape
    channels.start(DTYPES[name], rows, cols)
    for row in array:
        for give in [channels.add_piece] + [channels.add_piece_again] * (rows > 1):
            for first in range(0, cols, piece):
                give(np.ascontiguousarray(row[first : first + piece]).view(np.uint8))
    return channels.partial()


def as_tuple(partial):
    found = dataclasses.asdict(partial)
    maxabs = found.pop("column_maxabs")
    return found, None if maxabs is None else maxabs.tobytes()


def check(backend, array, name):
    found = swept(backend, array, name)
    x = cleaned(array)
    energy = float((x.astype(np.longdouble) ** 2).sum())
    for kind, expected in zip(ERRORS, channel_errors(x), strict=True):
        error = getattr(found, f"{kind}_error")
        if kind == "int8" and len(x) == 1:
            assert error is None
        else:
            # what is left of exact quotients in float32 counts as none
            assert error == pytest.approx(expected, rel=1e-9 if backend.exact else 3e-5, abs=1e-9 * energy), kind
    assert (found.fours, found.sparse_fours) == fours(x)
    assert found.dead_rows == (np.abs(x).max(axis=1) <= 1e-6).sum()
    if len(x) == 1:
        assert found.column_maxabs is None
    else:
        assert (found.column_maxabs == np.abs(x).max(axis=0)).all()


SHAPES = [(1, 1), (5, 1), (3, 4), (7, 31), (4, 127), (6, 128), (3, 333), (2, 4096), (3, 4500), (2, 17000)]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(backend, name, shape):
    check(backend, sample("normal", name, shape), name)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E5M2"])
@pytest.mark.parametrize("kind", ["heavy", "sparse", "constant", "ternary", "zero", "offset", "mixed"])
def test_kinds(backend, name, kind):
    check(backend, sample(kind, name, (10, 700), seed=1), name)


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_what_is_left_of_exact_quotients_is_no_error(backend, name):
    """Multiples of a step that binary numbers do not hold, and of one whose scale float64 cannot hold as it is."""
    rng = np.random.default_rng(8)
    for step in (0.1, 1e-300 if name == "F64" else 0.3):
        errors = {}
        for levels, low in ((7, -7), (15, 0), (127, -127)):
            multiples = rng.integers(low, levels + 1, (6, 512))
            multiples[:, ::16], multiples[:, 1::16] = low, levels  # in every group
            found = swept(backend, (multiples * step).astype(DTYPES[name].to_numpy()), name)
            errors[levels] = [getattr(found, f"{e}_error") for e in ERRORS]
        assert errors[7][1::2] == errors[15][2::2] == [0, 0]
        assert errors[127][0] == 0


@pytest.mark.parametrize("name", ["BF16", "F16", "F32", "F64", "F8_E4M3"])
@pytest.mark.parametrize("kind", ["subnormal", "huge", "finite", "any"])
def test_ends_of_the_types(backend, name, kind):
    if name == "F64" and kind != "subnormal":
        array = np.random.default_rng(3).standard_normal((4, 300)) * 1e305
        found = swept(backend, array, name)
        assert [getattr(found, f"{e}_error") for e in ERRORS] == [np.inf] * 5  # squares beyond float64, and no NaN
        array[:] = np.where(array > 0, 1.5e308, -1.5e308)
        found = swept(backend, array, name)
        assert found.int8_error == 0
        assert not any(np.isnan(getattr(found, f"{e}_error")) for e in ERRORS)
        return
    check(backend, extreme(kind, name, (6, 500), seed=2), name)


@pytest.mark.parametrize("name", ["BF16", "F32", "F64"])
def test_elements_that_are_not_finite_count_as_zeros(backend, name):
    array = sample("normal", name, (8, 5000), seed=4)
    clean = array.copy()
    for row, col, value in [(0, 0, np.nan), (3, 4999, np.inf), (3, 17, -np.inf), (7, 4096, -np.nan)]:
        array[row, col], clean[row, col] = value, 0
    array[2], clean[2] = np.nan, 0
    found = swept(backend, array, name)
    assert as_tuple(found) == as_tuple(swept(backend, clean, name))
    assert found.dead_rows == 1


@pytest.mark.parametrize("name", ["BF16", "F64", "F8_E4M3"])
@pytest.mark.parametrize("shape", [(13, 700), (6, 20000), (9, 3)], ids=str)
def test_blocks_change_no_bit(backend, name, shape):
    array = sample("mixed", name, shape, seed=5)
    once = as_tuple(swept(backend, array, name))
    for block in (1, 2, 5):
        assert as_tuple(swept(backend, array, name, block)) == once


def test_more_rows_than_sums_wait_for(backend):
    array = sample("mixed", "BF16", (300_001, 2), seed=5)
    once = as_tuple(swept(backend, array, "BF16"))
    assert as_tuple(swept(backend, array, "BF16", 90_001)) == once
    check(backend, array, "BF16")


@pytest.mark.parametrize("name", ["BF16", "F64", "F8_E5M2"])
@pytest.mark.parametrize("cols", [5, 4096, 20000, 33333])
def test_pieces_change_no_bit(backend, name, cols):
    array = sample("heavy", name, (3, cols), seed=6)
    once = as_tuple(swept(backend, array, name))
    for piece in (PIECE, 2 * PIECE, 5 * PIECE):
        assert as_tuple(swept_in_pieces(backend, array, name, piece)) == once
    vector = array[:1]
    assert as_tuple(swept_in_pieces(backend, vector, name, PIECE)) == as_tuple(swept(backend, vector, name))


def test_pieces_that_do_not_fit(backend):
    channels = backend.channels()
    channels.start(DTYPES["F32"], 2, 10_000)
    with pytest.raises(ValueError, match=r"a piece of 100 elements at column 0 of 10000: expected a multiple of 4096"):
        channels.add_piece(np.zeros(400, np.uint8))
    channels.add_piece(np.zeros(4 * PIECE, np.uint8))
    with pytest.raises(RuntimeError, match="4096 of 10000 columns were given: the row is not complete"):
        channels.add_piece_again(np.zeros(4 * PIECE, np.uint8))
    with pytest.raises(ValueError, match="a piece of 8192 elements at column 4096 of 10000"):
        channels.add_piece(np.zeros(4 * 8192, np.uint8))
    channels.add_piece(np.zeros(4 * (10_000 - PIECE), np.uint8))
    with pytest.raises(RuntimeError, match="0 of 10000 columns were given again: the row is not complete"):
        channels.partial()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["BF16", "F16", "F32", "F8_E4M3"]),
    kind=st.sampled_from(["normal", "heavy", "sparse", "mixed", "ternary"]),
    rows=st.integers(1, 6),
    cols=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_matrix(backend, name, kind, rows, cols, seed):
    check(backend, sample(kind, name, (rows, cols), seed), name)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_that_do_not_fit_are_halved(device, monkeypatch):
    from netweight.kernels.gpu import channels as implementation

    array = sample("mixed", "BF16", (40, 9000), seed=7)
    whole, pieces = as_tuple(swept(Backend(device), array, "BF16")), sample("heavy", "F32", (2, 33333), seed=6)
    expected = as_tuple(swept(Backend(device), pieces, "F32"))
    refusing = short_of_memory(implementation.int4_errors, 20_000)
    monkeypatch.setattr(implementation, "int4_errors", refusing)
    assert as_tuple(swept(Backend(device), array, "BF16")) == whole
    assert as_tuple(swept_in_pieces(Backend(device), pieces, "F32", 8 * PIECE)) == expected
    monkeypatch.setattr(implementation, "int4_errors", short_of_memory(implementation.int4_errors, 5000))
    with pytest.raises(DeviceOutOfMemory):
        swept(Backend(device), array, "BF16")


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_without_float64(device, monkeypatch):
    from netweight.kernels.gpu import channels as implementation

    monkeypatch.setattr(implementation, "has_float64", lambda device: False)
    with pytest.raises(TypeError, match=rf"channels on {device}: expected a device with float64; use the CPU's"):
        Backend(device).channels()
