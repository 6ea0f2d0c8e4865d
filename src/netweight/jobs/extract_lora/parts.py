"""Factors between their making and the adapter's file: two files a matrix, since ranks are known at the end only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from netweight.dtypes import DType
from netweight.output.exchange import sync_file
from netweight.output.peft_folder import StreamedTensor
from netweight.output.safetensors_file import TensorEntry
from netweight.passes.task_vectors import TaskVector

__all__ = ["PartFolder"]

_PIECE = 8 << 20  # bytes that are copied at a time
_STRIP = 64 << 20  # bytes of a transposed factor that are put together at a time


class _PartFile:
    """statistics.factorisation.FactorSink into two files: rows of the left factor, and the right one."""

    def __init__(self, left: Path, right: Path) -> None:
        self._left, self._right = left, right
        self._digest = xxhash.xxh3_128()

    def start(self, rank: int) -> None:  # noqa: ARG002 - sizes follow from what comes
        """See FactorSink."""
        self._left.write_bytes(b"")
        self._digest.reset()

    def right(self, factor: Any) -> None:
        """See FactorSink."""
        data = np.ascontiguousarray(factor).view(np.uint8).data
        self._right.write_bytes(data)
        self._digest.update(data)

    def left(self, first: int, rows: Any) -> None:  # noqa: ARG002 - in order
        """See FactorSink."""
        data = np.ascontiguousarray(rows).view(np.uint8).data
        with self._left.open("ab") as file:
            file.write(data)
        self._digest.update(data)

    def settle(self, *, sync: bool) -> str:
        """The digest of the right factor and the left one, which `sync` brings to the storage."""
        for path in (self._left, self._right) if sync else ():
            sync_file(path)
        return self._digest.hexdigest()


class PartFolder:
    """passes.task_vectors.PartSinks: files in a folder, which other processes must see under the same path. What those
    have written is on the storage before it counts: a node may be lost. Here digests tell what a crash has taken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._open: dict[int, _PartFile] = {}
        self._far = False

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_open": {}, "_far": True}

    def make(self) -> None:
        """Make the folder, where it is not there; raises OSError."""
        self._folder.mkdir(exist_ok=True)

    def remove(self) -> None:
        """Remove the folder and what is in it; raises OSError."""
        shutil.rmtree(self._folder)

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self._folder / f"{number:06}.left", self._folder / f"{number:06}.right"

    def sink(self, vector: TaskVector) -> _PartFile:
        """See PartSinks."""
        self._open[vector.number] = _PartFile(*self._paths(vector.number))
        return self._open[vector.number]

    def settle(self, vector: TaskVector) -> tuple[str, int]:
        """See PartSinks."""
        return self._open.pop(vector.number).settle(sync=self._far), 0

    def digest(self, number: int) -> str:
        """Of the files as they are; "" where one is missing."""
        digest = xxhash.xxh3_128()
        for path in reversed(self._paths(number)):
            if not path.is_file():
                return ""
            for piece in _pieces(path):
                digest.update(piece)
        return digest.hexdigest()

    def left(self, number: int, rows: int, rank: int, dtype: DType, *, turned: bool) -> StreamedTensor:
        """The left factor [rows, rank], or, `turned`, its transpose."""
        path = self._paths(number)[0]
        if not turned:
            return StreamedTensor(TensorEntry(dtype, (rows, rank)), lambda: _pieces(path))
        return StreamedTensor(TensorEntry(dtype, (rank, rows)), lambda: _turned(path, rows, rank, dtype))

    def right(self, number: int, rank: int, cols: int, dtype: DType, *, turned: bool) -> StreamedTensor:
        """The right factor [rank, cols], or, `turned`, its transpose."""
        path = self._paths(number)[1]
        if not turned:
            return StreamedTensor(TensorEntry(dtype, (rank, cols)), lambda: _pieces(path))
        return StreamedTensor(TensorEntry(dtype, (cols, rank)), lambda: _turned(path, rank, cols, dtype))

    def padded(
        self, number: int, shape: tuple[int, int], rank: int, wide: int, dtype: DType
    ) -> tuple[StreamedTensor, StreamedTensor]:
        """(left, right) of a matrix [rows, cols], with zeros behind `rank` directions up to `wide` of them."""
        rows, cols = shape
        left, right = self._paths(number)
        zeros = bytes(dtype.nbytes((wide - rank) * cols))
        return (
            StreamedTensor(TensorEntry(dtype, (rows, wide)), lambda: _widened(left, rows, rank, wide, dtype)),
            StreamedTensor(TensorEntry(dtype, (wide, cols)), lambda: chain(_pieces(right) if rank else (), (zeros,))),
        )


def _widened(path: Path, rows: int, rank: int, wide: int, dtype: DType) -> Iterator[Any]:
    """Rows of `rank` elements with zeros behind them, `wide` in all."""
    kind = np.dtype(f"u{dtype.bits // 8}")
    step = max(1, _PIECE // (wide * kind.itemsize))
    with path.open("rb") if rank else nullcontext() as file:
        for row in range(0, rows, step):
            block = np.zeros((min(step, rows - row), wide), kind)
            if file is not None:
                data = file.read(len(block) * rank * kind.itemsize)
                block[:, :rank] = np.frombuffer(data, kind).reshape(len(block), rank)
            yield block


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _turned(path: Path, rows: int, cols: int, dtype: DType) -> Iterator[Any]:
    """The rows of the transpose, some at a time; the file is read once for each strip of them."""
    kind = np.dtype(f"u{dtype.bits // 8}")
    width = max(1, min(cols, _STRIP // max(1, rows * kind.itemsize)))
    step = max(1, _PIECE // (cols * kind.itemsize))
    for first in range(0, cols, width):
        strip = np.empty((min(width, cols - first), rows), kind)
        with path.open("rb") as file:
            for row in range(0, rows, step):
                count = min(step, rows - row)
                block = np.frombuffer(file.read(count * cols * kind.itemsize), kind).reshape(count, cols)
                strip[:, row : row + count] = block[:, first : first + len(strip)].T
        yield strip
