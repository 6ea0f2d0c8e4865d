"""Codes out of words, against Python's integers, and what scales make of them, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.kernels.cpu import unpacked
from netweight.kernels.cpu.turned import turn

ANY = st.integers(0, (1 << 32) - 1)


@pytest.mark.parametrize("bits", range(2, 8))
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_unpack(bits, data):
    count = data.draw(st.integers(1, 4))
    words = data.draw(st.lists(ANY, min_size=count * bits, max_size=count * bits))
    whole = sum(word << (32 * at) for at, word in enumerate(words))
    out = np.empty(32 * count, np.uint8)
    unpacked.unpack(np.array(words, np.uint32), bits, out)
    assert out.tolist() == [(whole >> (at * bits)) & ((1 << bits) - 1) for at in range(32 * count)]


@pytest.mark.parametrize("bits", range(2, 9))
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_unpack_across(bits, data):
    """Rows that are asked for in any order, some of them in two words."""
    words = np.array([[data.draw(ANY) for _ in range(3)] for _ in range(bits)], np.uint32)
    rows = data.draw(st.lists(st.integers(0, 31), min_size=1, max_size=9))
    out = np.empty((len(rows), 3), np.uint8)
    unpacked.unpack_across(words, bits, np.array(rows) * bits, out)
    for col in range(3):
        whole = sum(int(word) << (32 * at) for at, word in enumerate(words[:, col]))
        assert out[:, col].tolist() == [(whole >> (row * bits)) & ((1 << bits) - 1) for row in rows]


def test_unpack_high_first():
    out = np.empty(512, np.uint8)
    unpacked.unpack_high_first(np.arange(256, dtype=np.uint8), out)
    assert out.reshape(-1, 2).tolist() == [[byte // 16, byte % 16] for byte in range(256)]


@pytest.mark.parametrize(("cols", "group"), [(7, 7), (32, 8), (50, 8), (3000, 128), (1, 1)])
@pytest.mark.parametrize("col", [0, 1, 6])
def test_scales_by_group_and_by_column(cols, group, col):
    """From any column on, over rows of which the last group may be cut, in tiles of any place."""
    if col >= cols:
        pytest.skip("beyond the row")
    rng = np.random.default_rng(cols + col)
    n, groups = 3 * cols - col - cols // 2, -(-cols // group)
    codes = rng.integers(0, 256, n).astype(np.uint8)
    zeros, scales = rng.integers(0, 256, (3, groups)).astype(np.float32), rng.standard_normal((3, groups), np.float32)
    which = np.arange(cols) // group
    full = np.broadcast_to(np.arange(3)[:, None], (3, cols)).reshape(-1), np.tile(which, 3)
    at = slice(col, col + n)
    expected = (codes.astype(np.float32) - zeros[full][at]) * scales[full][at]
    out, halves = np.empty(n, np.float32), np.empty(n, np.uint16)
    unpacked.scale_by_group(codes, zeros, scales, col, cols, group, out)
    assert np.array_equal(out, expected)
    unpacked.scale_by_column(codes, zeros, scales, col, which.astype(np.uint32), out)
    assert np.array_equal(out, expected)
    unpacked.narrow_by_group(codes, zeros, scales, col, cols, group, True, halves)
    assert np.array_equal(halves.view(np.float16), expected.astype(np.float16))
    unpacked.narrow_by_column(codes, zeros, scales, col, which.astype(np.uint32), True, halves)
    assert np.array_equal(halves.view(np.float16), expected.astype(np.float16))


@pytest.mark.parametrize("block", [1, 7, 64, 1500, 4096])
def test_tables_and_terms(block):
    """Blocks that are smaller and larger than a tile, the last one cut."""
    rng = np.random.default_rng(block)
    n = 5000
    codes, values = rng.integers(0, 256, n).astype(np.uint8), rng.standard_normal(256, np.float32)
    scales = rng.standard_normal(-(-n // block), np.float32)
    expected = values[codes] * np.repeat(scales, block)[:n]
    out, halves = np.empty(n, np.float32), np.empty(n, np.uint16)
    unpacked.scale_looked_up(codes, 0, values, scales, block, out)
    assert np.array_equal(out, expected)
    unpacked.narrow_looked_up(codes, values, scales, block, True, halves)
    assert np.array_equal(halves.view(np.float16), expected.astype(np.float16))
    unpacked.add_by_group(out, 0, scales, block)
    assert np.array_equal(out, expected + np.repeat(scales, block)[:n])


@pytest.mark.parametrize(("n", "lines", "step"), [(1, 1, 1), (9, 5, 9), (64, 3, 80), (17, 64, 40)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_turn(n, lines, step, dtype):
    held = np.arange(lines * step).astype(dtype)
    out = np.zeros((n, lines + 2), dtype)
    turn(held, step, lines, 1, out)
    expected = np.zeros_like(out)
    expected[:, 1 : lines + 1] = held.reshape(lines, step)[:, :n].T
    assert np.array_equal(out, expected)
