"""The blocks of a merge: one stretch of a parameter's inputs, read a block at a time, widened or as it is stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.checkpoint.tensor import read_elements
from netweight.dtypes import DTYPES, DType
from netweight.kernels.arrays import Array
from netweight.merging.target import Input, Target
from netweight.run.plan import STRETCH

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels

__all__ = ["BLOCK", "BlockReader", "stretches_of", "working_bytes"]


BLOCK = 1 << 16
"""Elements that are computed at a time; a multiple of the kernels' CHUNK."""

_NATIVE_BYTES = 16  # an input's block for every element of BLOCK: only tiles of it have to fit the first caches
_MOST_STRETCHES = 64  # of one parameter: the results of looks in each are kept until all are done
_COPIED = 1 << 20  # bytes copied at a time
_WIDE = {32: DTYPES["F32"], 64: DTYPES["F64"]}


def stretches_of(target: Target) -> list[tuple[int, int]]:
    """(start, stop) of the stretches of a target, fixed by its shape: whole rows, about STRETCH elements."""
    length = STRETCH * max(1, -(-target.size // (_MOST_STRETCHES * STRETCH)))
    if target.subject is not None:
        length = _in_rows(length, target.subject.cols, whole_rows=True)
    return [(start, min(start + length, target.size)) for start in range(0, max(target.size, 1), length)]


def _in_rows(length: int, cols: int, *, whole_rows: bool) -> int:
    return max(1, length // max(cols, 1)) * max(cols, 1) if whole_rows else length


def working_bytes(targets: Sequence[Target]) -> int:
    """Memory that one worker takes at most, in bytes: blocks of all inputs, wide or native, and the counts of looks."""
    most = 0
    for target in targets:
        if target.subject is None:
            continue
        rows = len(target.inputs)
        wide = max(BLOCK, min(target.subject.cols, target.size)) * ((rows + 3) * target.subject.bits // 8 + 8)
        native = _NATIVE_BYTES * BLOCK * (rows + 1)
        # counts of 16 bits under two prefixes: those of the stretch under way, and of one that waits to be merged
        looks = 2 * 2 * target.subject.models * 65536 * 8
        scratch = sum({id(p.tensor): p.tensor.scratch for i in target.inputs for p in i.pieces}.values())
        most = max(most, max(wide, native) + looks + scratch)
    return most + 2 * _COPIED


class BlockReader:
    """Reads what one worker's kernels take; every thread has buffers of its own."""

    def __init__(self, kernels: MergeKernels, own: threading.local) -> None:
        self._kernels = kernels
        self._own = own

    def native(self, target: Target, inputs: Sequence[int], *, whole_rows: bool) -> DType | None:
        """The element type of all these inputs, where loops of its own take it; F32 where one of them is F32, and the
        others are widened to it. Else None: all are widened, to blocks of a size that any method takes.
        """
        assert target.subject is not None  # noqa: S101 - what has no subject is copied
        dtypes = {piece.tensor.dtype for i in inputs for piece in target.inputs[i].pieces}
        if target.subject.bits != 32 or whole_rows or not all(map(self._kernels.fuses, dtypes)):
            return None
        return DTYPES["F32"] if DTYPES["F32"] in dtypes else next(iter(dtypes)) if len(dtypes) == 1 else None

    def buffer(self, name: str, nbytes: int) -> Array:
        """At least so many bytes of this thread's own, aligned for every type."""
        held: Array | None = getattr(self._own, name, None)
        if held is None or len(held) < nbytes:
            held = np.empty(-(-nbytes // 8), np.float64).view(np.uint8)
            setattr(self._own, name, held)
        return held

    def blocks(
        self,
        target: Target,
        span: tuple[int, int],
        inputs: Sequence[int],
        native: DType | None,
        *,
        whole_rows: bool,
        hashes: Sequence[Any] = (),
    ) -> Iterator[tuple[int, Array]]:
        """(start, [inputs, count]) of the elements in `span`: of the type `native`, or widened where it is None. The
        stored bytes of every input go to its digest in `hashes`.
        """
        subject = target.subject
        assert subject is not None  # noqa: S101 - what has no subject is copied
        kind = _WIDE[subject.bits] if native is None else native
        array = np.dtype(np.uint16 if kind.bits == 16 else kind.to_numpy())
        length = _in_rows(BLOCK, subject.cols, whole_rows=whole_rows)
        if native is not None:
            length = _NATIVE_BYTES * BLOCK // array.itemsize
        for start in range(*span, length):
            count = min(length, span[1] - start)
            x = self.buffer("blocks", len(inputs) * count * array.itemsize).view(array)[: len(inputs) * count]
            x = x.reshape(len(inputs), count)
            for row, number in enumerate(inputs):
                self._fill(target.inputs[number], start, x[row], kind, hashes[row] if hashes else None)
            yield start, x

    def _fill(self, source: Input, start: int, out: Array, kind: DType, digest: Any) -> None:
        """out = the input's elements from `start`, as `kind`; their bytes go to `digest` too."""
        first, stop = 0, start + len(out)
        for piece in source.pieces:
            a, b = max(start, first), min(stop, first + piece.count)
            if a < b:
                part, dtype = out[a - start : b - start], piece.tensor.dtype
                raw = part.view(np.uint8) if dtype == kind else self._raw((b - a) * dtype.bits // 8)
                read_elements(piece.tensor, piece.start + a - first, raw.data, resumable=True)
                if digest is not None:
                    digest.update(raw.data)
                if dtype != kind:
                    self._kernels.widen(raw, dtype, part)
            first += piece.count

    def stored(self, source: Input, span: tuple[int, int], bits: int) -> Iterator[tuple[int, Array]]:
        """(start, bytes) of the elements in `span`, of `bits` each, as they are stored."""
        most = _COPIED * 8 // bits
        first = 0
        for piece in source.pieces:
            last = min(span[1], first + piece.count)
            for start in range(max(span[0], first), last, most):
                raw = self._raw(min(most, last - start) * bits // 8)
                read_elements(piece.tensor, piece.start + start - first, raw.data, resumable=True)
                yield start, raw
            first += piece.count

    def _raw(self, nbytes: int) -> Array:
        return self.buffer("raw", nbytes)[:nbytes]
