"""`Kernels` on the CPU: buffers and tables around the loops."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from netweight.dtypes import DTYPES, DType
from netweight.kernels.cpu import loops
from netweight.kernels.cpu.channels import CpuChannels
from netweight.kernels.cpu.pairs import CpuPairs
from netweight.kernels.cpu.patterns import PADDING, count_patterns
from netweight.kernels.cpu.spectrum import CpuSpectrum, spectrum_bytes
from netweight.kernels.cpu.values import CpuPatterns, CpuValues
from netweight.kernels.protocol import CHUNK, DifferencePartial, F64Array, U8Array, U32Array, U64Array, Window

__all__ = ["CpuKernels"]

Array = np.ndarray[Any, Any]

_EIGHTHS = [d for d in DTYPES.values() if d.bits == 8 and d.numpy_name and d.numpy_name.startswith("ml_dtypes")]
_KINDS = {
    "BF16": loops.BFLOAT16,
    "F16": loops.FLOAT16,
    "F32": loops.FLOAT32,
    "F64": loops.FLOAT64,
    **{d.name: loops.FLOAT8 + i for i, d in enumerate(_EIGHTHS)},
}
_BUFFER = 1 << 19  # bytes read of each tensor at a time: every read and every loop is a wait for the interpreter's lock
_STORE = 1 << 20  # residual values handed over for each model and stretch, at most


@cache
def _half_table() -> Array:
    """float32 [65536], the value of every float16 pattern."""
    return np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)


@cache
def _eighth_tables() -> Array:
    """float32 [tables, 256], the value of every pattern of each 8-bit float."""
    patterns = np.arange(256, dtype=np.uint8)
    return np.stack([patterns.view(d.to_numpy()).astype(np.float32) for d in _EIGHTHS])


def _width(dtypes: Sequence[DType | None]) -> int:
    """Bits of the differences: float64 anywhere makes them float64 (the rule of the specification)."""
    return 64 if any(d is not None and d.name == "F64" for d in dtypes) else 32


def _long(dtypes: Sequence[DType | None]) -> bool:
    """Whether differences of these types often have bits below their leading 16, so that a second look is likely."""
    return any(d is not None and d.name in ("F16", "F32", "F64") for d in dtypes)


class _Lanes:
    """What both accumulators share: byte buffers, float scratch of one width, and the element types at hand."""

    def __init__(self, models: int) -> None:
        self.block = _BUFFER // 8
        self._raw = np.empty((1 + models, _BUFFER), np.uint8)
        self.buffers: Sequence[U8Array] = list(self._raw)
        self._kinds = np.zeros(1 + models, np.int64)
        self._scratch: dict[int, tuple[Array, Array]] = {}

    def _open(self, dtypes: Sequence[DType | None]) -> Window:
        """Set the element types."""
        self._kinds[:] = loops.ABSENT
        self._kinds[: len(dtypes)] = [loops.ABSENT if d is None else _KINDS[d.name] for d in dtypes]
        self._rows = len(dtypes)
        self.block = 8 * _BUFFER // max((d.bits for d in dtypes if d is not None), default=8)
        width = _width(dtypes)
        self._window = Window(width)
        self._uint = np.uint64 if width == 64 else np.uint32
        if width not in self._scratch:
            kind = np.float64 if width == 64 else np.float32
            self._scratch[width] = np.zeros((len(self._raw), CHUNK), kind), np.zeros(CHUNK + 1, kind)
        self._values, self._spare = self._scratch[width]
        return self._window

    def _common(self, count: int) -> tuple[Any, ...]:
        """The arguments that both loops begin with."""
        values = self._values[: self._rows]
        return (
            self._raw[: self._rows],
            self._kinds[: self._rows],
            count,
            _half_table(),
            _eighth_tables(),
            values,
            values.view(self._uint),
        )


class CpuDifferences(_Lanes):
    """protocol.DifferenceAccumulator in numba."""

    def __init__(self, models: int) -> None:
        super().__init__(models)
        self._counts = np.zeros((models, 4, 65536 + PADDING), np.uint32)
        self._residual_counts = np.zeros((models, 65536), np.uint32)
        self._residual_sums = np.zeros((models, 8), np.float64)
        self._stores: dict[int, Array] = {}
        self._stored = np.zeros(models, np.int64)
        self._gram = np.zeros((models, models), np.float64)
        self._base_square = np.zeros(1, np.float64)

    def start(self, dtypes: Sequence[DType | None], kept: U8Array) -> None:
        """See the protocol."""
        width = self._open(dtypes).width
        if width not in self._stores:
            self._stores[width] = np.empty((len(self._stored), _STORE), self._uint)
        self._kept = kept
        self._counts[:] = 0
        self._residual_counts[:] = 0
        self._residual_sums[:] = 0.0
        self._residual_sums[:, 6] = np.inf
        self._residual_sums[:, 7] = -np.inf
        self._stored[:] = 0
        self._gram[:] = 0.0
        self._base_square[:] = 0.0

    def add(self, count: int) -> None:
        """See the protocol."""
        exponent = 0x7FF << 52 if self._window.width == 64 else 0xFF << 23
        arguments = (
            *self._common(count),
            self._uint(exponent),
            self._spare,
            self._spare.view(self._uint),
            self._spare.view(np.int64 if self._window.width == 64 else np.int32),
            self._kept,
            self._counts,
            self._residual_counts,
            self._residual_sums,
            self._stores[self._window.width],
            self._stored,
            self._gram,
            self._base_square,
        )
        loops.add_block(*arguments)

    def partial(self) -> DifferencePartial:
        """See the protocol."""
        models = self._rows - 1
        store = self._stores[self._window.width]
        return DifferencePartial(
            window=self._window,
            counts=self._counts[:models, :, :65536].sum(axis=1, dtype=np.uint32),
            residual_counts=self._residual_counts[:models].copy(),
            residual_sums=self._residual_sums[:models].copy(),
            residuals=tuple(None if n < 0 else store[m, :n].copy() for m, n in enumerate(self._stored[:models])),
            gram=self._mirrored(models),
            base_square=float(self._base_square[0]),
        )

    def _mirrored(self, models: int) -> F64Array:
        lower = self._gram[:models, :models]
        return lower + lower.T


class CpuRefine(_Lanes):
    """protocol.RefineAccumulator in numba."""

    def start(self, dtypes: Sequence[DType | None], prefixes: Sequence[U64Array], level: int) -> None:
        """See the protocol."""
        models = len(dtypes) - 1
        width = self._open(dtypes).width
        self._ends = np.cumsum([0, *(len(p) for p in prefixes)])
        self._prefixes = np.concatenate(list(prefixes)).astype(self._uint)
        self._first = np.zeros((models, 65536), np.int32)
        self._slots = np.zeros((models, 65536), np.int32)
        self._found = np.zeros((len(self._prefixes), 65536), np.uint32)
        self._below = self._uint(width - 16 * level)
        for m, wanted in enumerate(prefixes):
            leading = (wanted >> np.uint64(16 * (level - 1))).astype(np.int64)
            np.add.at(self._slots[m], leading, 1)
            for slot, top in reversed(list(enumerate(leading, int(self._ends[m])))):
                self._first[m, top] = slot

    def add(self, count: int) -> None:
        """See the protocol."""
        arguments = (
            *self._common(count),
            self._below,
            self._uint(16),
            self._uint(0xFFFF),
            self._first,
            self._slots,
            self._prefixes,
            self._found,
        )
        loops.refine_block(*arguments)

    def counts(self) -> tuple[U32Array, ...]:
        """See the protocol."""
        return tuple(self._found[a:b] for a, b in pairwise(self._ends))


class CpuKernels:
    """The numba backend; `name` is "cpu"."""

    name = "cpu"

    def prepare(self, combinations: Collection[Sequence[DType | None]]) -> None:
        """See the protocol."""
        kept = np.ones(65536, np.uint8)
        for width in {_width(c) for c in combinations}:
            dtype = DTYPES["F64"] if width == 64 else DTYPES["BF16"]
            first = CpuDifferences(1)
            first.start([dtype, dtype], kept)
            first.add(0)
            if any(_width(c) == width and _long(c) for c in combinations):
                second = CpuRefine(1)
                second.start([dtype, dtype], [np.zeros(0, np.uint64)], 1)
                second.add(0)

    def count_patterns(self, patterns: Array, counts: U64Array) -> None:
        """See the protocol; raises TypeError for other types than uint8 and uint16."""
        if patterns.dtype not in (np.uint8, np.uint16):
            msg = f"bit patterns of {patterns.dtype}: expected uint8 or uint16"
            raise TypeError(msg)
        tables = np.zeros((4, len(counts) + PADDING), np.uint32)
        for start in range(0, len(patterns), 1 << 31):  # the tables count to 2^32
            count_patterns(patterns[start : start + (1 << 31)], tables)
            counts += tables[:, : len(counts)].sum(axis=0, dtype=np.uint64)
            tables[:] = 0

    def differences(self, models: int) -> CpuDifferences:
        """See the protocol."""
        return CpuDifferences(models)

    def refine(self, models: int) -> CpuRefine:
        """See the protocol."""
        return CpuRefine(models)

    def pairs(self) -> CpuPairs:
        """See the protocol."""
        return CpuPairs(_KINDS, _half_table(), _eighth_tables())

    def patterns(self) -> CpuPatterns:
        """See the protocol."""
        return CpuPatterns()

    def values(self) -> CpuValues:
        """See the protocol."""
        return CpuValues(_BUFFER)

    def channels(self) -> CpuChannels:
        """See the protocol."""
        return CpuChannels(_KINDS, _eighth_tables())

    def working_bytes(self, models: int) -> int:
        """See the protocol; refining is for at most 18 prefixes a model (the neighbours of nine quantiles)."""
        lanes = (1 + models) * (_BUFFER + CHUNK * 8)
        differences = models * (5 * 65536 * 4 + _STORE * 4)
        return 2 * lanes + differences + models * 65536 * (8 + 18 * 4)

    def spectrum(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> CpuSpectrum:
        """See the protocol."""
        return CpuSpectrum(dtype, rows, cols, leading)

    def spectrum_bytes(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> int:
        """See the protocol."""
        return spectrum_bytes(dtype, rows, cols, leading)
