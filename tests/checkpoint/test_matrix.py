"""Matrices of tensors against numpy's indexing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from netweight.checkpoint import open_checkpoint
from netweight.checkpoint.matrix import HeldMatrix, Part, RowMatrix, open_matrix, whole
from netweight.errors import ReadError

STACK = np.arange(4 * 6 * 10, dtype=np.float32).reshape(4, 6, 10)


@pytest.fixture
def stack(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file({"w": STACK, "v": STACK[0, 0], "s": np.array(3, np.float32)}, path)
    with open_checkpoint(path) as checkpoint:
        yield checkpoint


def rows_of(matrix, first, count):
    out = bytearray(count * matrix.cols * matrix.dtype.bits // 8)
    matrix.read_rows(first, count, memoryview(out))
    return np.frombuffer(out, np.float32).reshape(count, matrix.cols)


def test_whole_tensors_are_the_first_dimension_by_the_rest(stack) -> None:
    matrix = open_matrix(stack["w"], whole((4, 6, 10)))
    assert isinstance(matrix, RowMatrix)
    assert (matrix.rows, matrix.cols, matrix.size, matrix.name) == (4, 60, 240, "w")
    np.testing.assert_array_equal(rows_of(matrix, 1, 3), STACK.reshape(4, 60)[1:4])
    assert (open_matrix(stack["v"], whole((10,))).rows, open_matrix(stack["v"], whole((10,))).cols) == (1, 10)
    assert (open_matrix(stack["s"], whole(())).rows, open_matrix(stack["s"], whole(())).cols) == (1, 1)


PARTS = {
    "an expert": (Part("2", 120, 6, 10, (range(6),), (range(10),)), STACK[2]),
    "rows": (Part("q", 60, 6, 10, (range(1, 3), range(5, 6)), (range(10),)), STACK[1][[1, 2, 5]]),
    "every other row": (Part("q", 0, 6, 10, (range(0, 6, 2),), (range(10),)), STACK[0][::2]),
    "neighbouring runs": (Part("q", 0, 6, 10, (range(2), range(2, 4)), (range(10),)), STACK[0][:4]),
    "columns": (Part("k", 0, 6, 10, (range(6),), (range(2, 5), range(7, 9))), STACK[0][:, [2, 3, 4, 7, 8]]),
    "every other column": (Part("g", 0, 6, 10, (range(6),), (range(1, 10, 2),)), STACK[0][:, 1::2]),
    "a transpose": (Part("t", 0, 6, 10, (range(6),), (range(10),), transposed=True), STACK[0].T),
    "columns of a transpose": (Part("t", 60, 6, 10, (range(2, 6),), (range(4),), transposed=True), STACK[1][2:6, :4].T),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts(stack, case: str) -> None:
    part, expected = PARTS[case]
    matrix = open_matrix(stack["w"], part)
    assert isinstance(matrix, HeldMatrix) == part.held
    assert (matrix.rows, matrix.cols) == expected.shape
    assert matrix.size == part.size == expected.size
    assert matrix.name == f"w[{part.label}]"
    for first in range(matrix.rows):
        for count in range(1, matrix.rows - first + 1):
            np.testing.assert_array_equal(rows_of(matrix, first, count), expected[first : first + count])
    out = bytearray(2 * 4)
    matrix.read_cells(matrix.rows - 1, matrix.cols - 2, 2, memoryview(out))
    np.testing.assert_array_equal(np.frombuffer(out, np.float32), expected[-1, -2:])


def test_a_file_that_was_cut_is_one_error_with_the_tensors_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": STACK}, path)
    with open_checkpoint(path) as checkpoint:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 400)
        last = Part("3", 180, 6, 10, (range(6),), (range(10),))
        for part in (whole((4, 6, 10)), last, replace(last, transposed=True)):
            matrix = open_matrix(checkpoint["w"], part)
            with pytest.raises(ReadError, match=r"model\.safetensors"):
                rows_of(matrix, 0, matrix.rows)
