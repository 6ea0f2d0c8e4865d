"""`MergeKernels` on the CPU: element types, tables and room around the loops."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from threading import local
from typing import Any

import numpy as np

from netweight.dtypes import DType, Kind
from netweight.kernels.arrays import Array, F64Array, U8Array, U32Array
from netweight.kernels.cpu import elements, magnitudes, merge_arithmetic, merge_grams, rounding
from netweight.kernels.merge_terms import combination, trimming
from netweight.kernels.merging import Trim
from netweight.kernels.tables import numbers_of_patterns

__all__ = ["CpuMergeKernels"]

_LIMIT = 1 << 20  # elements that one call of a loop sees at most: its counters are of 32 bits
_FUSED = frozenset({"BF16", "F16", "F32"})
_WIDE = np.dtype(np.float32)


_NO_CHANCES = np.zeros((0, 0), np.float32)


class _Room(local):
    """A thread's tables, zero between calls, and a chunk's bits."""

    def __init__(self) -> None:
        self.tables = np.zeros((4, magnitudes.TABLE), np.uint32)
        self.bits: dict[int, Array] = {
            32: np.empty((2, magnitudes.CHUNK + 1), np.uint32),
            64: np.empty((2, magnitudes.CHUNK + 1), np.uint64),
        }


def _rows(x: Array) -> Array:
    """`x` in C order: loops would be compiled once more for a part of a wider array."""
    return np.ascontiguousarray(x)


def _native(raw: U8Array, kind: Any) -> Array:
    """The elements in `raw`, of a type that loops take: aligned and not read-only."""
    native: Array = raw.view(kind)
    return native if native.flags.aligned and native.flags.writeable else native.copy()


@cache
def _narrow_eighths(dtype: DType) -> tuple[U8Array, U8Array]:
    """The pattern for every bfloat16 uint8 [65536], and which patterns are not finite uint8 [256]."""
    values = (np.arange(65536, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        patterns = values.astype(dtype.to_numpy()).view(np.uint8)
    return patterns, (~np.isfinite(numbers_of_patterns(dtype))).astype(np.uint8)


class CpuMergeKernels:
    """kernels.merging.MergeKernels in numba; `name` is "cpu"."""

    name = "cpu"

    def __init__(self) -> None:
        self._room = _Room()

    def __reduce__(self) -> tuple[Any, ...]:
        return CpuMergeKernels, ()

    def prepare(self, dtypes: Collection[DType], bits: Collection[int]) -> None:
        """See the protocol."""
        fused = [dtype for dtype in set(dtypes) if self.fuses(dtype)] if 32 in bits else []
        for dtype in fused:
            self._prepare_native(dtype)
        if fused and len(set(dtypes)) == len(set(bits)) == 1:
            return
        for width in set(bits):
            kind = np.float64 if width == 64 else np.float32
            x, out = np.zeros((2, 8), kind), np.zeros(8, kind)
            for dtype in dtypes:
                if dtype.kind is Kind.FLOAT:  # others have no loops of their own
                    raw = np.zeros(dtype.nbytes(8), np.uint8)
                    self.widen(raw, dtype, out)
                    self.narrow(out, dtype, raw)
            self.gram(x, np.zeros((2, 2)))
            self.combine(x, 0, 1.0, [0.0, 1.0], out)
            counts, finer = np.zeros((2, 1, 65536), np.uint32)
            for level in (0, 1):
                self.count_scores(out, level, [0], counts, finer)
            self.merge_differences(x, [Trim(1.0)], 0, elect=False, normalize=False, scale=1.0, out=out)

    def _prepare_native(self, dtype: DType) -> None:
        native = np.zeros((3, 8), np.float32 if dtype.bits == 32 else np.uint16)
        x, out = native[:2], native[2]
        self.combine_native(x, dtype, 0, 1.0, [0.0, 1.0], out)
        self.merge_differences_native(x, dtype, [Trim(1.0)], 0, elect=False, normalize=False, scale=1.0, out=out)
        self.gram_native(x, dtype, np.zeros((2, 2)))
        counts, finer = np.zeros((2, 1, 65536), np.uint32)
        for level in (0, 1):
            self.count_magnitudes_native(x, dtype, level, [[0]], [counts], [finer])

    def widen(self, raw: U8Array, dtype: DType, out: Array) -> None:
        """See the protocol; raises TypeError for packed types."""
        if dtype.name == "BF16":
            elements.widen_bfloat16(_native(raw, np.uint16), out)
        elif dtype.name == "F16":
            elements.widen_half(_native(raw, np.uint16), out)
        elif dtype.kind is Kind.FLOAT and dtype.bits == 8:
            elements.look_up(_native(raw, np.uint8), numbers_of_patterns(dtype), out)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                out[:] = raw.view(dtype.to_numpy())

    def narrow(self, values: Array, dtype: DType, out: U8Array) -> int:
        """See the protocol; raises TypeError for types that are not floats."""
        if dtype.kind is not Kind.FLOAT:
            raise TypeError(f"merged values as {dtype}: expected a floating-point type")
        native = out.view(np.uint8 if dtype.bits == 8 else f"<u{dtype.bits // 8}")
        target = native if native.flags.aligned else np.empty_like(native)
        bad = 0
        for first in range(0, len(values), _LIMIT):
            bad += self._narrow(values[first : first + _LIMIT], dtype, target[first : first + _LIMIT])
        if target is not native:
            native[:] = target
        return bad

    def _narrow(self, values: Array, dtype: DType, out: Array) -> int:
        if dtype.name == "BF16":
            return rounding.narrow_to_bfloat16(values, out)
        if dtype.name == "F16":
            return rounding.narrow_to_half(values, out)
        if dtype.bits == 8:
            return rounding.narrow_to_eighth(values, *_narrow_eighths(dtype), out)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            native = out.view(dtype.to_numpy())
            native[:] = values
        return rounding.not_finite(native)

    def gram(self, x: Array, total: F64Array) -> None:
        """See the protocol."""
        merge_grams.add_gram(_rows(x), False, 0, total)

    def difference_gram(self, x: Array, total: F64Array) -> None:
        """See the protocol."""
        merge_grams.add_gram(_rows(x), False, 1, total)

    def combine(self, x: Array, pivot: int, scale: float, factors: Sequence[float], out: Array) -> None:
        """See the protocol; inputs whose factor is 0 are not looked at, whatever they hold."""
        merge_arithmetic.combine(_rows(x), False, pivot, *combination(pivot, scale, tuple(factors), x.dtype), out)

    def count_magnitudes(
        self,
        x: Array,
        level: int,
        prefixes: Sequence[Sequence[int]],
        counts: Sequence[U32Array],
        finer: Sequence[U32Array],
    ) -> None:
        """See the protocol."""
        x = _rows(x)
        for m, mine in enumerate(prefixes):
            self._count(x, m + 1, 0, level, mine, counts[m], finer[m])

    def count_scores(
        self, scores: Array, level: int, prefixes: Sequence[int], counts: U32Array, finer: U32Array
    ) -> None:
        """See the protocol."""
        self._count(scores.reshape(1, -1), 0, -1, level, prefixes, counts, finer)

    def _count(
        self,
        x: Array,
        row: int,
        base: int,
        level: int,
        prefixes: Sequence[int],
        counts: U32Array,
        finer: U32Array,
        *,
        half: bool = False,
    ) -> None:
        if not len(prefixes):
            return
        width = 64 if x.dtype == np.float64 else 32
        bits = self._room.bits[width]
        kind = bits.dtype.type
        below = width - 16 * (level + 1)
        shift, mask = kind(below), kind((1 << below) - 1)
        if level == 0:
            tables = self._room.tables
            magnitudes.count_leading(x, half, row, base, shift, mask, tables, bits, counts[0], finer[0])
        else:
            wanted, above = np.array(prefixes, kind), kind(below + 16)
            magnitudes.count_deeper(x, half, row, base, above, shift, mask, wanted, bits, counts, finer)

    def merge_differences(
        self,
        x: Array,
        trims: Sequence[Trim],
        start: int,
        *,
        elect: bool,
        normalize: bool,
        scale: float,
        out: Array,
        keep: Array | None = None,
    ) -> None:
        """See the protocol. Models of weight 0 are not looked at; with `elect`, NaN where the sum of all is NaN."""
        settings = trimming(
            tuple(trims), x.dtype, elect=elect, normalize=normalize, scale=scale, chances=keep is not None
        )
        if settings is None:
            out[:] = x[0]
            return
        chances = _NO_CHANCES if keep is None else _rows(keep)
        merge_arithmetic.merge_differences(_rows(x), False, *settings, chances, np.uint64(start), elect, out)

    def fuses(self, dtype: DType) -> bool:
        """See the protocol."""
        return dtype.name in _FUSED

    def gram_native(self, native: Array, dtype: DType, total: F64Array) -> None:
        """See the protocol."""
        merge_grams.add_gram(_rows(native), dtype.name == "F16", 0, total)

    def difference_gram_native(self, native: Array, dtype: DType, total: F64Array) -> None:
        """See the protocol."""
        merge_grams.add_gram(_rows(native), dtype.name == "F16", 1, total)

    def count_magnitudes_native(
        self,
        native: Array,
        dtype: DType,
        level: int,
        prefixes: Sequence[Sequence[int]],
        counts: Sequence[U32Array],
        finer: Sequence[U32Array],
    ) -> None:
        """See the protocol."""
        native = _rows(native)
        for m, mine in enumerate(prefixes):
            self._count(native, m + 1, 0, level, mine, counts[m], finer[m], half=dtype.name == "F16")

    def combine_native(
        self, native: Array, dtype: DType, pivot: int, scale: float, factors: Sequence[float], out: Array
    ) -> int:
        """See the protocol."""
        terms = combination(pivot, scale, tuple(factors), _WIDE)
        return merge_arithmetic.combine(_rows(native), dtype.name == "F16", pivot, *terms, out)

    def merge_differences_native(
        self,
        native: Array,
        dtype: DType,
        trims: Sequence[Trim],
        start: int,
        *,
        elect: bool,
        normalize: bool,
        scale: float,
        out: Array,
    ) -> int:
        """See the protocol."""
        half = dtype.name == "F16"
        settings = trimming(tuple(trims), _WIDE, elect=elect, normalize=normalize, scale=scale, chances=False)
        if settings is None:
            return merge_arithmetic.combine(_rows(native), half, 0, *combination(0, 1.0, (1.0,), _WIDE), out)
        return merge_arithmetic.merge_differences(
            _rows(native), half, *settings, _NO_CHANCES, np.uint64(start), elect, out
        )
