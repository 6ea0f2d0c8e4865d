"""`MergeKernels` in torch: blocks go to the device, are computed there, and come back.

`combine` and `merge_differences` do the CPU's operations in the CPU's order, one by one: results are equal bit for bit,
but for what a NaN carries. Inner products are sums of float64 by chunks, equal to rounding. Types are widened and
narrowed on the host, but for native blocks, which travel as they are stored. A device without float64 (Apple's) leaves
inner products and blocks of float64 to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch

from netweight.dtypes import DType, Kind
from netweight.kernels.arrays import Array, F64Array, U8Array, U32Array
from netweight.kernels.cpu.merging import CpuMergeKernels
from netweight.kernels.gpu.elements import upload
from netweight.kernels.gpu.magnitudes import count_deeper, count_leading, magnitude_bits
from netweight.kernels.gpu.memory import guarded, has_float64, in_pieces
from netweight.kernels.gpu.merge_arithmetic import combined, elected, merged
from netweight.kernels.merge_terms import combination, trimming
from netweight.kernels.merging import Trim
from netweight.kernels.protocol import CHUNK

__all__ = ["TorchMergeKernels"]

_STORED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_WIDE = np.dtype(np.float32)
_LEAST = 16 * CHUNK  # elements: a block of no more is not halved


class TorchMergeKernels:
    """kernels.merging.MergeKernels in torch; `name` is "torch cuda:0" or the like.

    All methods raise DeviceOutOfMemory where not even a small block fits, and DeviceLost where the device fails.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self.name = f"torch {self._device}"
        self._cpu = CpuMergeKernels()

    def prepare(self, dtypes: Collection[DType], bits: Collection[int]) -> None:
        """See the protocol."""
        for dtype in set(dtypes):
            if dtype.kind is not Kind.FLOAT:
                continue
            for width in set(bits):
                out = np.zeros(8, np.float64 if width == 64 else np.float32)
                raw = np.zeros(dtype.nbytes(8), np.uint8)
                self.widen(raw, dtype, out)
                self.narrow(out, dtype, raw)
        x = np.zeros((2, 8), np.float32)
        self.combine(x, 0, 1.0, [0.0, 1.0], x[1])

    def widen(self, raw: U8Array, dtype: DType, out: Array) -> None:
        """See the protocol; on the host. Raises TypeError for packed types."""
        self._cpu.widen(raw, dtype, out)

    def narrow(self, values: Array, dtype: DType, out: U8Array) -> int:
        """See the protocol; on the host. Raises TypeError for types that are not floats."""
        return self._cpu.narrow(values, dtype, out)

    def _on_host(self, x: Array) -> bool:
        return x.dtype == np.float64 and not has_float64(self._device)

    def _upload(self, x: Array, dtype: DType | None) -> torch.Tensor:
        """float32 or float64 [rows, n] on the device, of numbers or of native elements."""
        native = upload(np.ascontiguousarray(x), self._device)
        return native if dtype is None else native.view(_STORED[dtype.name]).to(torch.float32)

    def gram(self, x: Array, total: F64Array) -> None:
        """See the protocol."""
        if has_float64(self._device):
            self._gram(x, None, 0, total)
        else:
            self._cpu.gram(x, total)

    def difference_gram(self, x: Array, total: F64Array) -> None:
        """See the protocol."""
        if has_float64(self._device):
            self._gram(x, None, 1, total)
        else:
            self._cpu.difference_gram(x, total)

    def _gram(self, x: Array, dtype: DType | None, first_row: int, total: F64Array) -> None:
        def run(start: int, stop: int) -> None:
            placed = self._upload(x[:, CHUNK * start : CHUNK * stop], dtype)
            rows = (placed[1:] - placed[0] if first_row else placed).to(torch.float64)
            whole = rows.shape[1] // CHUNK * CHUNK
            chunks = torch.unflatten(rows[:, :whole], 1, (-1, CHUNK)).transpose(0, 1) if whole else rows[:0]
            parts = [torch.bmm(chunks, chunks.transpose(1, 2))] if whole else []
            if whole < rows.shape[1]:
                parts.append((rows[:, whole:] @ rows[:, whole:].T)[None])
            products = torch.tril(torch.cat(parts)).cpu().numpy()
            products += np.tril(products, -1).transpose(0, 2, 1)
            for chunk in products:  # one by one, so that blocks do not matter
                total[:] += chunk

        with guarded(self._device):
            in_pieces(self._device, -(-x.shape[1] // CHUNK), run, _LEAST // CHUNK)

    def combine(self, x: Array, pivot: int, scale: float, factors: Sequence[float], out: Array) -> None:
        """See the protocol; inputs whose factor is 0 are not looked at, whatever they hold."""
        if self._on_host(x):
            self._cpu.combine(x, pivot, scale, factors, out)
            return
        terms = combination(pivot, scale, tuple(factors), x.dtype)
        self._by_blocks(x, None, out, lambda placed, start, stop: combined(placed, pivot, *terms))  # noqa: ARG005

    def _by_blocks(
        self,
        x: Array,
        dtype: DType | None,
        out: Array,
        compute: Callable[[torch.Tensor, int, int], torch.Tensor],
    ) -> int:
        """out = what `compute` makes of each block of columns start to stop, rounded to `dtype` where there is one;
        returns how many are not finite.
        """
        bad = 0

        def run(start: int, stop: int) -> None:
            nonlocal bad
            results = compute(self._upload(x[:, start:stop], dtype), start, stop)
            if dtype is None:
                out[start:stop] = results.cpu().numpy()
                return
            results = results.to(_STORED[dtype.name])
            lost = int((~torch.isfinite(results)).sum())
            native = results.view(torch.int16) if dtype.bits == 16 else results
            out[start:stop] = native.cpu().numpy().view(out.dtype)
            bad += lost

        with guarded(self._device):
            in_pieces(self._device, x.shape[1], run, _LEAST)
        return bad

    def count_magnitudes(
        self,
        x: Array,
        level: int,
        prefixes: Sequence[Sequence[int]],
        counts: Sequence[U32Array],
        finer: Sequence[U32Array],
    ) -> None:
        """See the protocol."""
        if self._on_host(x):
            self._cpu.count_magnitudes(x, level, prefixes, counts, finer)
        else:
            self._count_differences(x, None, level, prefixes, counts, finer)

    def _count_differences(
        self,
        x: Array,
        dtype: DType | None,
        level: int,
        prefixes: Sequence[Sequence[int]],
        counts: Sequence[U32Array],
        finer: Sequence[U32Array],
    ) -> None:
        for m, mine in enumerate(prefixes):
            self._count(x[[0, m + 1]] if len(mine) else x[:0], dtype, level, mine, counts[m], finer[m])

    def count_scores(
        self, scores: Array, level: int, prefixes: Sequence[int], counts: U32Array, finer: U32Array
    ) -> None:
        """See the protocol."""
        if self._on_host(scores):
            self._cpu.count_scores(scores, level, prefixes, counts, finer)
        else:
            self._count(scores.reshape(1, -1), None, level, prefixes, counts, finer)

    def _count(
        self,
        x: Array,
        dtype: DType | None,
        level: int,
        prefixes: Sequence[int],
        counts: U32Array,
        finer: U32Array,
    ) -> None:
        """Of a row, or of the difference of the second of two from the first."""
        if not len(prefixes):
            return

        def run(start: int, stop: int) -> None:
            placed = self._upload(x[:, start:stop], dtype)
            bits = magnitude_bits(placed[1] - placed[0] if len(placed) == 2 else placed[0])
            width = 8 * bits.element_size()
            counted = count_deeper(bits, width, level, prefixes) if level else count_leading(bits, width)
            every, further = counted.cpu().numpy().astype(np.uint32)
            counts[:] += every
            finer[:] += further

        with guarded(self._device):
            in_pieces(self._device, x.shape[1], run, _LEAST)

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
        merge = self._cpu.merge_differences if self._on_host(x) else self._merge
        merge(x, trims, start, elect=elect, normalize=normalize, scale=scale, out=out, keep=keep)

    def _merge(
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
        dtype: DType | None = None,
    ) -> int:
        kind = x.dtype if dtype is None else _WIDE
        terms = trimming(tuple(trims), kind, elect=elect, normalize=normalize, scale=scale, chances=keep is not None)
        if terms is None:
            return self._by_blocks(x[:1], dtype, out, lambda placed, first, last: placed[0])  # noqa: ARG005

        def compute(placed: torch.Tensor, first: int, last: int) -> torch.Tensor:
            chances = None if keep is None else self._upload(keep[:, first:last], None)
            return (elected if elect else merged)(placed, terms, chances, start + first)

        return self._by_blocks(x, dtype, out, compute)

    def fuses(self, dtype: DType) -> bool:
        """See the protocol."""
        return dtype.name in _STORED

    def gram_native(self, native: Array, dtype: DType, total: F64Array) -> None:
        """See the protocol."""
        if has_float64(self._device):
            self._gram(native, dtype, 0, total)
        else:
            self._cpu.gram_native(native, dtype, total)

    def difference_gram_native(self, native: Array, dtype: DType, total: F64Array) -> None:
        """See the protocol."""
        if has_float64(self._device):
            self._gram(native, dtype, 1, total)
        else:
            self._cpu.difference_gram_native(native, dtype, total)

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
        self._count_differences(native, dtype, level, prefixes, counts, finer)

    def combine_native(
        self, native: Array, dtype: DType, pivot: int, scale: float, factors: Sequence[float], out: Array
    ) -> int:
        """See the protocol."""
        terms = combination(pivot, scale, tuple(factors), _WIDE)
        return self._by_blocks(native, dtype, out, lambda placed, start, stop: combined(placed, pivot, *terms))  # noqa: ARG005

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
        return self._merge(native, trims, start, elect=elect, normalize=normalize, scale=scale, out=out, dtype=dtype)
