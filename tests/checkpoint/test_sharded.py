"""Tensors put together of chunks, against numpy's slices."""

from __future__ import annotations

import itertools
import pickle
import random

import numpy as np
import pytest

from netweight.checkpoint.tensors.rearranged import RearrangedTensor
from netweight.checkpoint.tensors.sharded import Chunk, put_together
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES
from netweight.errors import FormatError
from netweight.source.held import HeldBytes

F32 = DTYPES["F32"]


def chunk(offsets, array, dtype=F32) -> Chunk:
    held = HeldBytes(memoryview(np.ascontiguousarray(array).tobytes()), "file")
    return Chunk(tuple(offsets), StoredTensor("a chunk", array.shape, dtype, held, 0))


def cut(rng: random.Random, n: int) -> list[tuple[int, int]]:
    at = sorted(rng.sample(range(1, n), rng.randint(0, min(3, n - 1)))) if n > 1 else []
    return list(itertools.pairwise([0, *at, n]))


@pytest.mark.parametrize("seed", range(300))
def test_any_grid_of_chunks(seed):
    """Chunks of any grid, in any order, are the whole: read at once and from anywhere."""
    rng = random.Random(seed)
    shape = tuple(rng.randint(1, 6) for _ in range(seed % 6))
    whole = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    grid = [cut(rng, n) if rng.random() < 0.6 else [(0, n)] for n in shape]
    boxes = list(itertools.product(*grid))
    chunks = [chunk([start for start, _ in box], whole[tuple(slice(*run) for run in box)]) for box in boxes]
    rng.shuffle(chunks)
    tensor = put_together("w", shape, F32, chunks)
    assert (tensor.name, tensor.shape) == ("w", shape)
    np.testing.assert_array_equal(tensor.read(), whole)
    assert [part.name for part in tensor.parts] == ["w"]  # chunks are no tensors of the checkpoint
    start = rng.randrange(whole.size)
    out = bytearray(4 * rng.randint(1, whole.size - start))
    tensor.read_into(start, memoryview(out))
    assert out == whole.reshape(-1)[start : start + len(out) // 4].tobytes()


def test_chunks_of_no_grid():
    """Boxes of other sizes side by side: 2 x 3 above 2 x 1 and 2 x 2, then a row."""
    whole = np.arange(15, dtype=np.float32).reshape(5, 3)
    boxes = [(0, 2, 0, 3), (2, 4, 0, 1), (2, 4, 1, 3), (4, 5, 0, 3)]
    tensor = put_together("w", (5, 3), F32, [chunk((a, c), whole[a:b, c:d]) for a, b, c, d in boxes])
    np.testing.assert_array_equal(tensor.read(), whole)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(RearrangedTensor("w", (5, 3), F32, 3, (), own=True))).shape, (5, 3)
    )


ONES = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "hold 0 elements"),
        ([chunk((0, 0), ONES)], r"hold 4 elements and do not fill its shape \[4, 2\] once"),
        ([chunk((0, 0), ONES), chunk((0, 0), ONES)], "do not fill"),
        ([chunk((0, 0), ONES), chunk((1, 0), ONES)], "do not fill"),
        ([chunk((0, 0), ONES), chunk((3, 0), ONES)], r"ends at \[5, 2\], outside of its shape \[4, 2\]"),
        ([chunk((0,), ONES[0]), chunk((2,), ONES[0])], "outside"),
        ([chunk((0, 0), ONES), chunk((2, 0), ONES.astype("f2"), DTYPES["F16"])], "is F16, expected F32"),
    ],
)
def test_chunks_that_do_not_fill_it(chunks, message):
    with pytest.raises((FormatError, ValueError), match=message):
        put_together("w", (4, 2), F32, chunks)


def test_overlaps_of_the_right_size():
    """Four boxes of 8 elements together, of which two share some and one place stays open."""
    boxes = [(0, 0, 2, 1), (0, 1, 1, 1), (2, 0, 1, 2), (3, 0, 1, 2), (2, 1, 1, 1)]
    chunks = [chunk((r, c), np.ones((h, w), np.float32)) for r, c, h, w in boxes]
    with pytest.raises(FormatError, match="hold 8 elements and do not fill"):
        put_together("w", (4, 2), F32, chunks)


def test_empty_ones():
    empty = np.ones((0, 3), np.float32)
    assert put_together("w", (0, 3), F32, [chunk((0, 0), empty)]).read().shape == (0, 3)
    filled = [chunk((2, 0), ONES[:0]), chunk((0, 0), ONES)]  # a rank that got nothing of a short tensor
    assert isinstance(put_together("w", (2, 2), F32, filled), StoredTensor)
    two = [chunk((), np.float32(1).reshape(())), chunk((), np.float32(2).reshape(()))]
    with pytest.raises(FormatError, match="do not fill"):
        put_together("w", (), F32, two)
