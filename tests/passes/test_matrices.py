"""One matrix's reading: blocks, pieces, sinks, and how often bytes are read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from array_matrix import ArrayMatrix
from matrix_oracles import channel_errors, cleaned, sample

from netweight.errors import ReadError
from netweight.kernels.cpu import CpuKernels
from netweight.measures.registry import find
from netweight.passes import matrices as matrix_pass
from netweight.passes.matrices import Scratch, gather, scratch_bytes
from netweight.statistics.channels import CHANNELS
from netweight.statistics.values import ABS_QUANTILES, COUNTS, INT8, MOMENTS, NEEDS, OUTSIDE, QUANTILES, SPARSITY

KERNELS = CpuKernels()
ALL = NEEDS | {CHANNELS}


class Sink:
    def __init__(self):
        self.blocks = []

    def add(self, block, rows):
        self.blocks.append((bytes(block), rows))


def as_tuple(gathered):
    found = dataclasses.asdict(gathered.channels)
    maxabs = found.pop("column_maxabs")
    return gathered.values, found, None if maxabs is None else maxabs.tobytes()


@pytest.mark.parametrize("name", ["BF16", "F32", "F64", "F8_E4M3"])
@pytest.mark.parametrize("shape", [(300, 4096), (5, 200_000), (3, 700_000), (1, 1_000_001), (100_000, 3)], ids=str)
def test_the_buffer_changes_no_bit(name, shape):
    """From many rows in a block to rows in pieces."""
    array = sample("heavy", name, shape, seed=1)
    found = [
        as_tuple(gather(ArrayMatrix(array, name), Scratch(KERNELS, nbytes), ALL))
        for nbytes in (1 << 16, 1 << 19, 1 << 23)
    ]
    assert found[0] == found[1] == found[2]


def test_rows_in_pieces_are_right():
    array = sample("normal", "BF16", (2, 600_000), seed=2)
    matrix = ArrayMatrix(array, "BF16")
    found = gather(matrix, Scratch(KERNELS, 1 << 16), ALL).channels
    assert matrix.bytes_read == 2 * array.nbytes
    errors = (found.int8, found.int4_g128_symmetric, found.int4_g128_asymmetric)
    assert errors == pytest.approx(channel_errors(cleaned(array))[:3], rel=3e-5)


@pytest.mark.parametrize(("name", "needs", "times"), [
    ("BF16", ALL, 1),
    ("BF16", {MOMENTS}, 1),
    ("F32", {CHANNELS}, 1),
    ("F32", {MOMENTS, CHANNELS}, 1),
    ("F32", {MOMENTS, INT8, CHANNELS}, 2),
    ("F32", ALL, 3),
    ("F32", {QUANTILES, ABS_QUANTILES, OUTSIDE, COUNTS, SPARSITY}, 3),
    ("F32", frozenset(), 0),
])  # fmt: skip
def test_how_often_bytes_are_read(name, needs, times):
    array = sample("normal", name, (1200, 1100), seed=3)
    matrix = ArrayMatrix(array, name)
    gathered = gather(matrix, Scratch(KERNELS), frozenset(needs))
    assert matrix.bytes_read == times * array.nbytes
    assert (gathered.values is not None) == bool(needs & NEEDS)
    assert (gathered.channels is not None) == (CHANNELS in needs)


@pytest.mark.parametrize("needs", [frozenset(), frozenset({MOMENTS}), ALL], ids=["none", "moments", "all"])
@pytest.mark.parametrize("shape", [(1000, 300), (3, 500_000), (1, 400_000), (7, 1)], ids=str)
def test_sinks_get_whole_rows_once(needs, shape):
    array = sample("normal", "F32", shape, seed=4)
    matrix = ArrayMatrix(array, "F32")
    sinks = [Sink(), Sink()]
    found = gather(matrix, Scratch(KERNELS), needs, sinks)
    assert sinks[0].blocks == sinks[1].blocks
    assert b"".join(b for b, _ in sinks[0].blocks) == array.tobytes()
    assert all(len(b) == rows * array[0].nbytes and rows for b, rows in sinks[0].blocks)
    alone = gather(ArrayMatrix(array, "F32"), Scratch(KERNELS), needs)
    if CHANNELS in needs:
        assert as_tuple(found) == as_tuple(alone)
    else:
        assert found == alone


def test_rows_too_long_for_sinks(monkeypatch):
    monkeypatch.setattr(matrix_pass, "LONGEST_ROW", 1000)
    with pytest.raises(ValueError, match="an array: rows of 1200 bytes for sinks; expected at most 1000"):
        gather(ArrayMatrix(np.zeros((2, 300), np.float32), "F32"), Scratch(KERNELS), frozenset(), [Sink()])


def test_unknown_needs():
    with pytest.raises(ValueError, match=r"needs \['spectrum'\] are not known; there are \['channels', 'values"):
        gather(ArrayMatrix(np.zeros((2, 3), np.float32), "F32"), Scratch(KERNELS), frozenset({"spectrum"}))


def test_a_scratch_is_used_again_and_makes_only_what_is_needed():
    scratch = Scratch(KERNELS)
    half = sample("normal", "BF16", (80, 500), seed=5)
    once = as_tuple(gather(ArrayMatrix(half, "BF16"), scratch, ALL))
    assert set(scratch._made) == {"buffer", "patterns", "channels"}  # nothing for 32 and 64 bits
    for name in ("F64", "F8_E4M3", "F32"):
        array = sample("heavy", name, (30, 5000), seed=6)
        fresh = as_tuple(gather(ArrayMatrix(array, name), Scratch(KERNELS), ALL))
        assert as_tuple(gather(ArrayMatrix(array, name), scratch, ALL)) == fresh
    assert as_tuple(gather(ArrayMatrix(half, "BF16"), scratch, ALL)) == once


def test_errors_of_reading_come_through():
    class Broken(ArrayMatrix):
        def read_rows(self, first, count, out):
            raise ReadError("model.safetensors: gone")

    scratch = Scratch(KERNELS)
    array = sample("normal", "F32", (300, 5000), seed=7)
    with pytest.raises(ReadError, match="gone"):
        gather(Broken(array, "F32"), scratch, ALL)
    fresh = as_tuple(gather(ArrayMatrix(array, "F32"), Scratch(KERNELS), ALL))
    assert as_tuple(gather(ArrayMatrix(array, "F32"), scratch, ALL)) == fresh


def test_the_memory_plan_covers_the_buffers():
    every = [find(n) for n in ("basic_stats", "quantization", "sparsity")]
    assert scratch_bytes(KERNELS, []) < scratch_bytes(KERNELS, every[:1]) < scratch_bytes(KERNELS, every)
    assert scratch_bytes(KERNELS, every, 1 << 22) >= scratch_bytes(KERNELS, every) + (1 << 22)
