"""Tensors put together from matrices of others, nested, against numpy: any runs and steps, turned on either side."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from itertools import pairwise
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from netweight.checkpoint.matrix import Part, whole
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors import rearranged
from netweight.checkpoint.tensors.rearranged import RearrangedTensor
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES
from netweight.params.layouts.parts import assembled

TYPES = {"F8_E4M3": "u1", "BF16": "u2", "F32": "u4", "F64": "u8"}


@dataclass
class Held:
    """A source that pickles, and says which of its bytes were read."""

    name: str
    data: bytes
    asked: set[int] = field(default_factory=set)

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert 0 <= offset <= offset + len(buffer) <= self.size
        self.asked.update(range(offset, offset + len(buffer)))
        buffer[:] = self.data[offset : offset + len(buffer)]


@dataclass
class Made:
    """A tensor, and the cells that it must have."""

    tensor: Tensor
    cells: np.ndarray


def picked(part: Part, cells: np.ndarray) -> np.ndarray:
    """The matrix that `part` describes, by numpy."""
    region = cells.reshape(-1)[part.start : part.start + part.region_rows * part.region_cols]
    region = region.reshape(part.region_rows, part.region_cols)
    matrix = region[
        np.ix_(
            *(
                np.concatenate([np.arange(r.start, r.stop, r.step) for r in runs])
                for runs in (part.row_runs, part.col_runs)
            )
        )
    ]
    return matrix.T if part.transposed else matrix


def put(part: Part, cells: np.ndarray, matrix: np.ndarray) -> None:
    """Store the matrix where `part` says that it lies."""
    region = cells.reshape(-1)[part.start : part.start + part.region_rows * part.region_cols]
    region = region.reshape(part.region_rows, part.region_cols)
    rows, cols = ([i for run in runs for i in run] for runs in (part.row_runs, part.col_runs))
    region[np.ix_(rows, cols)] = matrix.T if part.transposed else matrix


@st.composite
def dealt(draw, count: int) -> list[tuple[range, ...]]:
    """Runs that have every number below `count` once: one after another, taking turns, or in groups."""
    hands = draw(st.integers(1, min(3, count)))
    way = draw(st.sampled_from(["cuts", "turns", "groups"]))
    if way == "turns":
        return [(range(hand, count, hands),) for hand in range(hands)]
    ends = sorted(draw(st.sets(st.integers(1, count - 1), min_size=hands - 1, max_size=hands - 1))) if hands > 1 else []
    if way == "groups" and count % 2 == 0 and count >= 4:  # two groups with the same cuts in each
        half = count // 2
        ends = sorted({min(end, half - 1) or 1 for end in ends})
        cuts = list(pairwise([0, *ends, half]))
        return [(range(a, b), range(half + a, half + b)) for a, b in cuts]
    return [(range(a, b),) for a, b in pairwise([0, *ends, count])]


@st.composite
def runs(draw, count: int) -> tuple[tuple[range, ...], int]:
    """(runs of `count` numbers in all, in order, with steps and gaps; how many numbers they lie among)."""
    found, at, left = [], draw(st.integers(0, 2)), count
    while left:
        length, step = draw(st.integers(1, left)), draw(st.integers(1, 3))
        found.append(range(at, at + (length - 1) * step + 1, step))
        at = found[-1].stop + draw(st.integers(0, 2))
        left -= length
    return tuple(found), at


@st.composite
def held(draw, matrix: np.ndarray, dtype: str, depth: int, name: str) -> tuple[Tensor, Part]:
    """A tensor that holds this matrix among other cells, put together itself while `depth` lasts; and where."""
    transposed = draw(st.booleans())
    (row_runs, rows), (col_runs, cols) = (draw(runs(n)) for n in (matrix.T if transposed else matrix).shape)
    regions = draw(st.integers(1, 2))
    part = Part("", draw(st.integers(0, regions - 1)) * rows * cols, rows, cols, row_runs, col_runs, transposed)
    shape = (regions, rows, cols) if regions > 1 or draw(st.booleans()) else (rows, cols)
    cells = np.arange(regions * rows * cols, dtype=matrix.dtype).reshape(shape)
    put(part, cells, matrix)
    return draw(made(cells, dtype, depth, name)), part


@st.composite
def made(draw, cells: np.ndarray, dtype: str, depth: int, name: str) -> Tensor:
    """A tensor that has these cells: stored, or put together from matrices of others."""
    if not depth or draw(st.integers(0, 3)) == 0:
        data = Held(f"{name}.bin", cells.tobytes())
        return StoredTensor(name, cells.shape, DTYPES[dtype], data, 0)
    rows, cols = cells.shape[-2:]
    pieces = []
    for start in range(0, cells.size, rows * cols):
        by_row, transposed = draw(st.booleans()), draw(st.booleans())
        for number, hand in enumerate(draw(dealt(rows if by_row else cols))):
            sides = (hand, (range(cols),)) if by_row else ((range(rows),), hand)
            there = Part("", start, rows, cols, *sides, transposed)
            pieces.append((there, *draw(held(picked(there, cells), dtype, depth - 1, f"{name}.{start}.{number}"))))
    return assembled(name, cells.shape, draw(st.permutations(pieces)))


@st.composite
def tensors(draw) -> Made:
    """Put together twice over."""
    dtype = draw(st.sampled_from(sorted(TYPES)))
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=3))
    raw = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 250, shape)
    cells = raw.astype(TYPES[dtype])
    return Made(draw(made(cells, dtype, 2, "t")), cells)


def read(tensor: Tensor, start: int, count: int, cell: str) -> np.ndarray:
    out = np.full(count, 99, cell)
    tensor.read_into(start, out.view(np.uint8).data)
    return out


@given(tensors(), st.data())
def test_any_rearrangement(made: Made, data: st.DataObject) -> None:
    """Whole, and from any element on; also where rows and slabs hold a few elements, and from another process."""
    tensor, cells = made.tensor, made.cells.reshape(-1)
    assert (tensor.name, tensor.shape) == ("t", made.cells.shape)
    np.testing.assert_array_equal(read(tensor, 0, cells.size, cells.dtype), cells)
    start = data.draw(st.integers(0, cells.size))
    count = data.draw(st.integers(0, cells.size - start))
    small = {"_ROWS": data.draw(st.integers(1, 64)), "_SLAB": data.draw(st.integers(1, 64)), "_SLABS": 1}
    rearranged._kept._slabs.clear()  # of other sizes
    with mock.patch.multiple(rearranged, **small):
        for one in (tensor, pickle.loads(pickle.dumps(tensor))):
            np.testing.assert_array_equal(read(one, start, count, cells.dtype), cells[start : start + count])


@given(tensors(), st.data())
def test_what_is_read_was_announced(made: Made, data: st.DataObject) -> None:
    tensor, cells = made.tensor, made.cells.reshape(-1)
    start = data.draw(st.integers(0, cells.size - 1))
    count = data.draw(st.integers(1, cells.size - start))
    told: dict[str, set[int]] = {}
    for source, offset, size in tensor.bytes_of(start, count):
        assert 0 <= offset <= offset + size <= source.size
        told.setdefault(source.name, set()).update(range(offset, offset + size))
    rearranged._kept._slabs.clear()
    read(tensor, start, count, cells.dtype)
    sources = {part.where: part.source for part in tensor.parts}
    assert told.keys() <= sources.keys()
    for name, source in sources.items():
        assert source.asked <= told.get(name, set())


def test_a_whole_tensor_is_that_tensor() -> None:
    cells = np.arange(12, dtype="u4").reshape(3, 4)
    inner = StoredTensor("inner", (3, 4), DTYPES["F32"], Held("x", cells.tobytes()), 0)
    same = assembled("outer", (3, 4), [(whole((3, 4)), inner, whole((3, 4)))])
    assert isinstance(same, StoredTensor)
    assert (same.name, same.source) == ("outer", inner.source)
    flat = assembled("outer", (12,), [(whole((12,)), inner, whole((12,)))])
    assert isinstance(flat, RearrangedTensor)
    np.testing.assert_array_equal(read(flat, 3, 7, "u4"), np.arange(3, 10))


def test_one_row_that_is_stored_as_a_column() -> None:
    """Its elements follow one another, and the step to a next row means nothing."""
    columns = [np.arange(first, first + 3, dtype="u4").reshape(3, 1) for first in (1, 7)]
    inner = [StoredTensor(f"{n}", (3, 1), DTYPES["F32"], Held(f"{n}", c.tobytes()), 0) for n, c in enumerate(columns)]
    here = Part("", 0, 3, 1, (range(3),), (range(1),), transposed=True)
    there = [Part("", 0, 1, 6, (range(1),), (cols,)) for cols in (range(3), range(3, 6))]
    row = assembled("row", (1, 6), [(place, tensor, here) for place, tensor in zip(there, inner, strict=True)])
    np.testing.assert_array_equal(read(row, 0, 6, "u4"), [1, 2, 3, 7, 8, 9])


def test_what_is_only_turned_is_one_piece() -> None:
    """gpt-oss: gate and up take turns in the stack and in the expert's own matrix; there is nothing to cut."""
    turns = [(range(0, 8, 2),), (range(1, 8, 2),)]
    tensor = StoredTensor("x", (8, 3), DTYPES["F32"], Held("x", bytes(96)), 0)
    pieces = [
        (
            Part("", 24, 3, 8, (range(3),), runs, transposed=True),
            tensor,
            Part("", 0, 8, 3, runs, (range(3),)),
        )
        for runs in turns
    ]
    made = assembled("y", (2, 3, 8), pieces)
    assert [(p.rows, p.cols, p.start, p.row_step, p.col_step) for p in made.placed] == [
        (range(3, 6), range(8), 0, 1, 3)
    ]
    swapped = [(pieces[n][0], tensor, replace(pieces[n][2], row_runs=turns[1 - n])) for n in (0, 1)]
    assert len(assembled("y", (2, 3, 8), swapped).placed) == 2  # gate and up change places
