"""`DifferenceAccumulator` on a device. Counts are those of the CPU; sums are float64, of pieces that follow the memory:
they agree with the CPU's, but their last bits depend on the device and on how a stretch is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from netweight.dtypes import DType
from netweight.kernels.arrays import F64Array, U8Array
from netweight.kernels.gpu.elements import leading_bits
from netweight.kernels.gpu.lanes import LaneAccumulator
from netweight.kernels.gpu.memory import guarded
from netweight.kernels.protocol import DifferencePartial, Window

__all__ = ["STORE", "TorchDifferences", "device_bytes"]

STORE = 1 << 20
"""Residual values handed over for each model and stretch are fewer than this less one, as on the CPU."""


def device_bytes(models: int) -> int:
    """What an element needs on the device while it is looked at, besides its own bytes: base and one model's
    difference, bits and residual values; and all models' differences for the inner products.
    """
    return 96 + 8 * models


@dataclass(frozen=True, eq=False)
class _Piece:
    """Of one model's piece: counts int64 [65536], of all values and of the residual ones (None: there are none);
    `kept`: their bits where asked for; `finite`: how many are, and their `sums` (see `_sums_of`).
    """

    model: int
    counts: torch.Tensor
    residual_counts: torch.Tensor | None
    kept: torch.Tensor | None
    finite: int
    sums: Sequence[float]


def _sums_of(x: torch.Tensor) -> list[float]:
    """Of float64 [n >= 1]: a centre near the mean; sum e, e^2, e^3, e^4 (e = x - centre), abs(x); min and max."""
    center = x.sum() / x.numel()
    e = x - center
    square = e * e
    terms = [
        center,
        e.sum(),
        square.sum(),
        (square * e).sum(),
        (square * square).sum(),
        x.abs().sum(),
        x.min(),
        x.max(),
    ]
    sums: list[float] = torch.stack(terms).tolist()
    return sums


def _merge(total: F64Array, n: int, sums: Sequence[float]) -> None:
    """The result of `_sums_of` for n values, merged into total[8] (Pebay 2008, SAND2008-6212, eq. 2.1 and 3.1)."""
    center, s1, s2, s3, s4, absolute, least, most = sums
    d = s1 / n  # what rounding left of the mean
    mean = center + d
    m2 = max(s2 - s1 * d, 0.0)
    m3 = s3 - 3.0 * d * s2 + 2.0 * n * d * d * d
    m4 = max(s4 - 4.0 * d * s3 + 6.0 * d * d * s2 - 3.0 * n * d * d * d * d, 0.0)
    held, at, a2, a3, a4, l1, low, high = (float(v) for v in total)
    both = held + n
    if held:
        d = mean - at
        d_n = d / both
        m4 += (
            a4
            + d * d_n * d_n * d_n * held * n * (held * held - held * n + n * n)
            + 6.0 * d_n * d_n * (held * held * m2 + n * n * a2)
            + 4.0 * d_n * (held * m3 - n * a3)
        )
        m3 += a3 + d * d_n * d_n * held * n * (held - n) + 3.0 * d_n * (held * m2 - n * a2)
        m2 += a2 + d * d_n * held * n
        mean = at + d_n * n
    total[:] = both, mean, m2, m3, m4, l1 + absolute, min(low, least), max(high, most)


def _finite(values: torch.Tensor) -> torch.Tensor:
    """float64, zero where a value is not finite."""
    return torch.where(values.isfinite(), values, 0.0).to(torch.float64)


class TorchDifferences(LaneAccumulator):
    """protocol.DifferenceAccumulator for up to `models` models; `most`: elements taken at once, at most."""

    def __init__(self, device: torch.device, models: int, most: int | None = None) -> None:
        super().__init__(device, 1 + models, device_bytes(models), most)

    def start(self, dtypes: Sequence[DType | None], kept: U8Array) -> None:
        """See the protocol; raises DeviceOutOfMemory and DeviceLost, as `add` and `partial` do."""
        self._lanes.open(dtypes)
        models = len(dtypes) - 1
        with guarded(self._device):
            self._kept = torch.from_numpy(kept.astype(np.bool_)).to(self._device)
            self._counts = torch.zeros((models, 65536), dtype=torch.int64, device=self._device)
            self._residual_counts = torch.zeros_like(self._counts)
        self._residual_sums = np.zeros((models, 8))
        self._residual_sums[:, 6:] = np.inf, -np.inf
        self._stored: list[list[torch.Tensor] | None] = [[] for _ in range(models)]
        self._gram = np.zeros((models, models))
        self._base_square = 0.0

    def _look(self, lanes: torch.Tensor, start: int, stop: int) -> None:
        """Take in one piece: first all that may fail, then what changes the totals."""
        base, differences = self._lanes.differences(lanes, start, stop)
        square = 0.0
        if base is not None:
            finite = _finite(base)
            square = (finite * finite).sum().item()
            del finite
        models = len(self._counts)
        rows = torch.zeros((models, stop - start), dtype=torch.float64, device=self._device) if models > 1 else None
        pieces = []
        for model, values in differences:
            pieces.append(self._count(model, values))
            if rows is not None:
                rows[model] = _finite(values)
        gram = 0.0 if rows is None else (rows @ rows.T).cpu().numpy()

        self._base_square += square
        self._gram += gram
        for piece in pieces:
            self._take(piece)

    def _count(self, model: int, values: torch.Tensor) -> _Piece:
        bits = values.view(torch.int64 if self._lanes.wide else torch.int32)
        counts = torch.bincount(leading_bits(bits), minlength=65536)
        residual = bits[(bits & self._low) != 0]
        if not residual.numel():
            return _Piece(model, counts, None, None, 0, ())
        leading = leading_bits(residual)
        kept = None
        if self._stored[model] is not None:
            kept = residual[torch.index_select(self._kept, 0, leading)]
        finite = residual.view(values.dtype)
        finite = finite[finite.isfinite()].to(torch.float64)
        sums = _sums_of(finite) if finite.numel() else ()
        return _Piece(model, counts, torch.bincount(leading, minlength=65536), kept, finite.numel(), sums)

    @property
    def _low(self) -> int:
        """All bits below the leading 16."""
        return (1 << (48 if self._lanes.wide else 16)) - 1

    def _take(self, piece: _Piece) -> None:
        self._counts[piece.model] += piece.counts
        if piece.residual_counts is None:
            return
        self._residual_counts[piece.model] += piece.residual_counts
        if piece.finite:
            _merge(self._residual_sums[piece.model], piece.finite, piece.sums)
        stored = self._stored[piece.model]
        if stored is not None and piece.kept is not None:
            stored.append(piece.kept)
            if sum(len(bits) for bits in stored) >= STORE - 1:
                self._stored[piece.model] = None

    def partial(self) -> DifferencePartial:
        """See the protocol."""
        self._lanes.finish()
        with guarded(self._device):
            counts, residual_counts = (t.cpu().numpy().astype(np.uint32) for t in (self._counts, self._residual_counts))
            residuals = tuple(None if s is None else self._bits(s) for s in self._stored)
        gram = self._gram.copy()
        np.fill_diagonal(gram, 0.0)
        return DifferencePartial(
            window=Window(64 if self._lanes.wide else 32),
            counts=counts,
            residual_counts=residual_counts,
            residual_sums=self._residual_sums.copy(),
            residuals=residuals,
            gram=gram,
            base_square=self._base_square,
        )

    def _bits(self, stored: Sequence[torch.Tensor]) -> np.ndarray[tuple[int], np.dtype[np.uint32 | np.uint64]]:
        kind: type[np.uint32 | np.uint64] = np.uint64 if self._lanes.wide else np.uint32
        if not stored:
            return np.zeros(0, kind)
        bits: np.ndarray[tuple[int], np.dtype[np.uint32 | np.uint64]] = torch.cat(list(stored)).cpu().numpy().view(kind)
        return bits
