"""A tensor that lies in chunks in several files, as training on several devices writes it: one tensor of the
checkpoint, read as if it lay in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.rearranged import Placed, RearrangedTensor
from netweight.dtypes import DType
from netweight.errors import FormatError

__all__ = ["Chunk", "put_together", "same_bytes"]

_BLOCK = 1 << 20  # elements that are compared at a time
_MOST_PIECES = 1 << 20  # rectangles of one tensor


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor: its first element lies at `offsets`, and `tensor` has its elements in C order."""

    offsets: tuple[int, ...]
    tensor: Tensor

    @property
    def stops(self) -> tuple[int, ...]:
        """Where it ends on every axis."""
        return tuple(start + count for start, count in zip(self.offsets, self.tensor.shape, strict=True))


def put_together(name: str, shape: tuple[int, ...], dtype: DType, chunks: Sequence[Chunk]) -> Tensor:
    """The tensor `name` of `shape`, which `chunks` of whole bytes an element fill; a chunk that is all of it is it.

    Raises FormatError, without a file's name, where chunks leave the tensor, overlap, or leave some of it open.
    """
    filled = sorted((chunk for chunk in chunks if chunk.tensor.size), key=lambda chunk: chunk.offsets)
    chunks = filled or [chunk for chunk in chunks if chunk.tensor.shape == shape][:1]
    for chunk in chunks:
        if chunk.tensor.dtype != dtype:
            raise FormatError(f"a chunk of it is {chunk.tensor.dtype}, expected {dtype}")
        if len(chunk.offsets) != len(shape) or any(stop > n for stop, n in zip(chunk.stops, shape, strict=True)):
            raise FormatError(f"a chunk of it ends at {list(chunk.stops)}, outside of its shape {list(shape)}")
    held = sum(chunk.tensor.size for chunk in chunks)
    if not chunks or held != prod(shape) or _overlap(chunks):
        raise FormatError(f"its chunks hold {held} elements and do not fill its shape {list(shape)} once")
    if len(chunks) == 1:
        return replace(chunks[0].tensor, name=name)
    # the last axis that is cut, and what lies within one step of it
    cut = max((axis for axis, n in enumerate(shape) if any(c.tensor.shape[axis] != n for c in chunks)), default=0)
    inner = prod(shape[cut + 1 :])
    width = inner if cut == 0 else shape[cut] * inner
    placed: list[Placed] = []
    for chunk in chunks:
        placed += _placed(chunk, shape, cut, inner)
        if len(placed) > _MOST_PIECES:
            raise FormatError(f"its chunks make more than {_MOST_PIECES} pieces")
    return RearrangedTensor(name, shape, dtype, width, tuple(placed), own=True)


def same_bytes(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one shape and type have the same bytes; read until the first that differ."""
    item = max(1, first.dtype.bits // 8)
    for start in range(0, first.size, _BLOCK):
        count = min(_BLOCK, first.size - start)
        left, right = bytearray(count * item), bytearray(count * item)
        first.read_into(start, memoryview(left))
        second.read_into(start, memoryview(right))
        if left != right:
            return False
    return True


def _placed(chunk: Chunk, shape: tuple[int, ...], cut: int, inner: int) -> Iterator[Placed]:
    """The rectangles that a chunk fills of the matrix [axes before `cut`, the others], or [axis 0, the others]."""
    sizes, starts = chunk.tensor.shape, chunk.offsets
    if cut == 0:
        yield Placed(range(starts[0], starts[0] + sizes[0]), range(inner), chunk.tensor, 0, inner, 1)
        return
    cols = range(starts[cut] * inner, (starts[cut] + sizes[cut]) * inner)
    # rows that follow one another: those of the last axis before `cut` that is cut, with all that lies within it
    last = max((axis for axis in range(cut) if sizes[axis] != shape[axis]), default=0)
    within = prod(shape[last + 1 : cut])
    run = sizes[last] * within
    for number, outer in enumerate(product(*(range(n) for n in sizes[:last]))):
        row = 0
        for axis, at in enumerate(outer):
            row = row * shape[axis] + starts[axis] + at
        row = (row * shape[last] + starts[last]) * within
        yield Placed(range(row, row + run), cols, chunk.tensor, number * run * len(cols), len(cols), 1)


def _overlap(chunks: Sequence[Chunk]) -> bool:
    """Whether two of them share elements: those that share a stretch of the axis that is cut most are compared."""
    if len(chunks) < 2:
        return False
    axis = max(range(len(chunks[0].offsets)), key=lambda axis: len({c.offsets[axis] for c in chunks}), default=-1)
    if axis < 0:
        return True  # two chunks of one number
    near: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for starts, stops in sorted(((c.offsets, c.stops) for c in chunks), key=lambda box: box[0][axis]):
        near = [box for box in near if box[1][axis] > starts[axis]]
        for first, end in near:
            if all(a < d and c < b for a, b, c, d in zip(first, end, starts, stops, strict=True)):
                return True
        near.append((starts, stops))
    return False
