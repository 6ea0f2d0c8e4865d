"""Tensors put together from matrices of other tensors, as another layout of the same model has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from netweight.checkpoint.matrix import Part, whole
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.rearranged import Placed, RearrangedTensor

__all__ = ["assembled"]


def assembled(name: str, shape: tuple[int, ...], pieces: Sequence[tuple[Part, Tensor, Part]]) -> Tensor:
    """The tensor `name` of `shape`: each piece says where a matrix lies in it, the tensor that holds this matrix, and
    where it lies there. All tensors have one element type, and together the pieces cover `shape` once.

    A tensor that is the whole of another of the same shape is that other one.
    """
    first, tensor, part = pieces[0]
    if len(pieces) == 1 and tensor.shape == shape and part == whole(shape) == first:
        return replace(tensor, name=name)
    placed: list[Placed] = []
    for piece in (p for part in pieces for p in _placed(*part)):
        joined = piece
        while placed and (both := _joined(placed[-1], joined)) is not None:
            placed.pop()
            joined = both
        placed.append(joined)
    return RearrangedTensor(name, shape, tensor.dtype, first.region_cols, tuple(placed))


def _joined(first: Placed, second: Placed) -> Placed | None:
    """Two rectangles of one tensor as one, where they go on from one another or take turns in the same way on both
    sides: gate and up of an expert that is only turned. One is read faster than two.
    """
    if first.tensor is not second.tensor:
        return None
    apart = second.start - first.start
    if (first.rows, first.row_step) == (second.rows, second.row_step) and first.col_step == second.col_step:
        run = _one_run(first.cols, second.cols, first.col_step, apart)
        return None if run is None else replace(first, cols=run[0], col_step=run[1])
    if (first.cols, first.col_step) == (second.cols, second.col_step) and first.row_step == second.row_step:
        run = _one_run(first.rows, second.rows, first.row_step, apart)
        return None if run is None else replace(first, rows=run[0], row_step=run[1])
    return None


def _one_run(first: range, second: range, step: int, apart: int) -> tuple[range, int] | None:
    """Two runs, whose elements lie `step` from one another and whose beginnings `apart`, as one run and its step."""
    if first.step != second.step:
        return None
    if second.start == first[-1] + first.step and apart == len(first) * step:
        return range(first.start, second[-1] + 1, first.step), step
    turns = first.step == 2 and second.start == first.start + 1 and len(first) == len(second)
    return (range(first.start, second[-1] + 1), step // 2) if turns and 2 * apart == step else None


def _placed(there: Part, tensor: Tensor, here: Part) -> Iterator[Placed]:
    """The rectangles of one matrix: where it lies `there`, in the tensor to be made, and `here`, in `tensor`."""
    first_row = there.start // there.region_cols
    by_row, by_col = (1, here.region_cols) if here.transposed else (here.region_cols, 1)
    for out_rows, rows in _together(_axis(there, 0), _axis(here, 0)):
        for out_cols, cols in _together(_axis(there, 1), _axis(here, 1)):
            start = here.start + rows.start * by_row + cols.start * by_col
            steps = rows.step * by_row, cols.step * by_col
            lines, cells = (out_cols, out_rows) if there.transposed else (out_rows, out_cols)
            lines = range(lines.start + first_row, lines.stop + first_row, lines.step)
            row_step, col_step = reversed(steps) if there.transposed else steps
            yield Placed(lines, cells, tensor, start, row_step, col_step if len(cells) > 1 else 1)


def _axis(part: Part, axis: int) -> tuple[range, ...]:
    """The runs of the tensor's rows or columns along an axis of the matrix."""
    return part.col_runs if part.transposed == (axis == 0) else part.row_runs


def _together(first: Sequence[range], second: Sequence[range]) -> Iterator[tuple[range, range]]:
    """Both sequences of runs cut at the ends of either, so that they go in step."""
    left, right = list(first), list(second)
    while left and right:
        count = min(len(left[0]), len(right[0]))
        yield left[0][:count], right[0][:count]
        for runs in (left, right):
            runs[0] = runs[0][count:]
            if not len(runs[0]):
                runs.pop(0)
