"""Bit patterns and the look at known thresholds, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netweight.dtypes import DType
from netweight.kernels.arrays import Array, U8Array, U64Array
from netweight.kernels.cpu.compiled import compiled
from netweight.kernels.cpu.patterns import PADDING, count_in_four, count_in_two
from netweight.kernels.protocol import CHUNK
from netweight.kernels.values import LookPartial

__all__ = ["CpuPatterns", "CpuValues"]

_TABLE_LIMIT = 1 << 31  # elements counted before the tables, which count to 2^32, are emptied


@compiled
def _count(values: Array, lows: Array, highs: Array, limits: Array, inside: Array, at_most: Array) -> None:
    """Two ranges and five limits in one loop; NaN is in none of them."""
    a = b = c = d = e = f = g = np.int64(0)
    low, high, lower, higher = lows[0], highs[0], lows[1], highs[1]
    t0, t1, t2, t3, t4 = limits[0], limits[1], limits[2], limits[3], limits[4]
    for i in range(len(values)):
        x = values[i]
        magnitude = abs(x)
        a += np.int64((x >= low) & (x <= high))
        b += np.int64((x >= lower) & (x <= higher))
        c += np.int64(magnitude <= t0)
        d += np.int64(magnitude <= t1)
        e += np.int64(magnitude <= t2)
        f += np.int64(magnitude <= t3)
        g += np.int64(magnitude <= t4)
    inside[0] += a
    inside[1] += b
    at_most[0] += c
    at_most[1] += d
    at_most[2] += e
    at_most[3] += f
    at_most[4] += g


@compiled
def _quantize(values: Array, scale: float, chunk: Array) -> None:
    """chunk[:4] = sums of squared error, absolute error, x x' and x'^2."""
    square = 0.0
    absolute = 0.0
    product = 0.0
    quantized = 0.0
    for i in range(len(values)):
        x = np.float64(values[i])
        q = np.rint(x / scale)
        q = min(q, 127.0)
        q = max(q, -128.0)
        back = q * scale
        e = x - back
        square += e * e
        absolute += abs(e)
        product += x * back
        quantized += back * back
    chunk[0] = square
    chunk[1] = absolute
    chunk[2] = product
    chunk[3] = quantized


@compiled
def look(
    values: Array,
    lows: Array,
    highs: Array,
    limits: Array,
    scale: float,
    inside: Array,
    at_most: Array,
    sums: Array,
    finite: Array,
) -> None:
    """A block, chunk by chunk; scale 0: no quantization; finite[CHUNK]: room."""
    chunk = np.zeros(4, np.float64)
    for first in range(0, len(values), CHUNK):
        part = values[first : min(first + CHUNK, len(values))]
        _count(part, lows, highs, limits, inside, at_most)
        if scale == 0.0:
            continue
        _quantize(part, scale, chunk)
        if not np.isfinite(chunk[1]):  # the others may also be beyond float64
            n = 0
            for i in range(len(part)):
                if np.isfinite(part[i]):
                    finite[n] = part[i]
                    n += 1
            _quantize(finite[:n], scale, chunk)
        for k in range(4):
            sums[k] += chunk[k]


class CpuPatterns:
    """protocol `PatternAccumulator` in numba."""

    def __init__(self) -> None:
        self._tables: dict[int, Array] = {}

    def start(self, dtype: DType) -> None:
        """See the protocol; raises TypeError for types that are not of 8 or 16 bits."""
        if dtype.bits not in (8, 16):
            raise TypeError(f"bit patterns of {dtype}: expected a type of 8 or 16 bits")
        self._bits = dtype.bits
        if self._bits not in self._tables:
            self._tables[self._bits] = np.zeros((4, (1 << self._bits) + PADDING), np.uint32)
        self._tables[self._bits][:] = 0
        self._counts = np.zeros(1 << self._bits, np.uint64)
        self._waiting = 0

    def add(self, block: U8Array) -> None:
        """See the protocol."""
        patterns: Array = block if self._bits == 8 else block.view(np.uint16)
        for first in range(0, len(patterns), _TABLE_LIMIT):
            part = patterns[first : first + _TABLE_LIMIT]
            if self._waiting + len(part) > _TABLE_LIMIT:
                self._empty()
            table = self._tables[self._bits]
            # runs of one value would wait for their own last store in two tables
            mostly_zero = 2 * int(table[:, [0, len(self._counts) // 2]].sum()) > self._waiting
            (count_in_four if mostly_zero else count_in_two)(part, part.dtype.type(0), table)
            self._waiting += len(part)

    def _empty(self) -> None:
        table = self._tables[self._bits]
        self._counts += table[:, : len(self._counts)].sum(axis=0, dtype=np.uint64)
        table[:] = 0
        self._waiting = 0

    def counts(self) -> U64Array:
        """See the protocol."""
        self._empty()
        return self._counts.copy()


class CpuValues:
    """protocol `ValuesAccumulator` in numba."""

    def __init__(self, nbytes: int) -> None:
        """`nbytes` of buffer, a multiple of 8 * CHUNK."""
        self._raw = np.empty(nbytes, np.uint8)
        self.buffer: U8Array = self._raw
        self.block = nbytes // 8
        self._finite: dict[int, Array] = {}

    def start(
        self, dtype: DType, scale: float | None, ranges: Sequence[tuple[float, float]], thresholds: Sequence[float]
    ) -> None:
        """See the protocol; raises TypeError for other types than F32 and F64."""
        if dtype.name not in ("F32", "F64"):
            raise TypeError(f"a look at {dtype}: expected F32 or F64")
        kind = dtype.to_numpy()
        self._values = self._raw.view(kind)
        self.block = len(self._values)
        if dtype.bits not in self._finite:
            self._finite[dtype.bits] = np.zeros(CHUNK, kind)
        self._scratch = self._finite[dtype.bits]
        self._asked = len(thresholds), len(ranges)
        unused = [-1.0] * (5 - len(thresholds))
        empty = [(1.0, -1.0)] * (2 - len(ranges))
        bounds = [*ranges, *empty]
        self._limits = np.array([_below(t, kind) for t in [*thresholds, *unused]], kind)
        self._lows = np.array([-_below(-low, kind) for low, _ in bounds], kind)
        self._highs = np.array([_below(high, kind) for _, high in bounds], kind)
        self._scale = 0.0 if scale is None else scale
        self._inside = np.zeros(2, np.int64)
        self._at_most = np.zeros(5, np.int64)
        self._sums = np.zeros(4)

    def add(self, count: int) -> None:
        """See the protocol."""
        look(
            self._values[:count],
            self._lows,
            self._highs,
            self._limits,
            self._scale,
            self._inside,
            self._at_most,
            self._sums,
            self._scratch,
        )

    def partial(self) -> LookPartial:
        """See the protocol."""
        thresholds, ranges = self._asked
        square, absolute, product, quantized = (float(s) for s in self._sums)
        return LookPartial(
            at_most=tuple(int(c) for c in self._at_most[:thresholds]),
            inside=tuple(int(c) for c in self._inside[:ranges]),
            error_square=square,
            error_absolute=absolute,
            product=product,
            quantized_square=quantized,
        )


def _below(bound: float, kind: np.dtype[Any]) -> Any:
    """The largest finite value of the type that is not above `bound`, so that comparing with it is exact."""
    limits = np.finfo(kind)
    if bound >= float(limits.max):
        return limits.max
    with np.errstate(over="ignore", under="ignore"):
        value = kind.type(bound)
    return np.nextafter(value, kind.type(-np.inf)) if float(value) > bound else value
