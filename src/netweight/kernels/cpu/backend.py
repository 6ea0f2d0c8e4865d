"""`Kernels` on the CPU, in numba."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from netweight.dtypes import DTYPES, DType
from netweight.kernels.arrays import Array, U64Array
from netweight.kernels.cpu.channels import CpuChannels
from netweight.kernels.cpu.differences import STORE, CpuDifferences
from netweight.kernels.cpu.lanes import BUFFER, width_of
from netweight.kernels.cpu.pairs import CpuPairs
from netweight.kernels.cpu.patterns import PADDING, count_in_four
from netweight.kernels.cpu.refine import CpuRefine
from netweight.kernels.cpu.spectrum import CpuSpectrum, spectrum_bytes
from netweight.kernels.cpu.values import CpuPatterns, CpuValues
from netweight.kernels.protocol import CHUNK

__all__ = ["CpuKernels"]


def _long(dtypes: Sequence[DType | None]) -> bool:
    """Whether differences of these types often have bits below their leading 16, so that a second look is likely."""
    return any(d is not None and d.name in ("F16", "F32", "F64") for d in dtypes)


class CpuKernels:
    """The numba backend; `name` is "cpu"."""

    name = "cpu"

    def prepare(self, combinations: Collection[Sequence[DType | None]]) -> None:
        """See the protocol."""
        kept = np.ones(65536, np.uint8)
        for width in {width_of(c) for c in combinations}:
            dtype = DTYPES["F64"] if width == 64 else DTYPES["BF16"]
            first = CpuDifferences(1)
            first.start([dtype, dtype], kept)
            first.add(0)
            if any(width_of(c) == width and _long(c) for c in combinations):
                second = CpuRefine(1)
                second.start([dtype, dtype], [np.zeros(0, np.uint64)], 1)
                second.add(0)

    def count_patterns(self, patterns: Array, counts: U64Array) -> None:
        """See the protocol; raises TypeError for other types than uint8 and uint16."""
        if patterns.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"bit patterns of {patterns.dtype}: expected uint8 or uint16")
        shift = patterns.dtype.type(0)
        tables = np.zeros((4, len(counts) + PADDING), np.uint32)
        for start in range(0, len(patterns), 1 << 31):  # the tables count to 2^32
            count_in_four(patterns[start : start + (1 << 31)], shift, tables)
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
        return CpuPairs()

    def patterns(self) -> CpuPatterns:
        """See the protocol."""
        return CpuPatterns()

    def values(self) -> CpuValues:
        """See the protocol."""
        return CpuValues(BUFFER)

    def channels(self) -> CpuChannels:
        """See the protocol."""
        return CpuChannels()

    def working_bytes(self, models: int) -> int:
        """See the protocol; refining is for at most 18 prefixes a model (the neighbours of nine quantiles)."""
        lanes = (1 + models) * (BUFFER + CHUNK * 8)
        differences = models * (5 * 65536 * 4 + STORE * 4)
        return 2 * lanes + differences + models * 65536 * (8 + 18 * 4)

    def spectrum(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> CpuSpectrum:
        """See the protocol."""
        return CpuSpectrum(dtype, rows, cols, leading)

    def spectrum_bytes(self, dtype: DType, rows: int, cols: int, leading: int | None = None) -> int:
        """See the protocol."""
        return spectrum_bytes(dtype, rows, cols, leading)
