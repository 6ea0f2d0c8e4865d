"""Sums on the device that do not depend on how their terms came: by segments of a fixed number of terms."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from netweight.kernels.arrays import F64Array
from netweight.kernels.protocol import CHUNK

__all__ = ["RunningSum", "chunk_sums"]

_SEGMENT = 4096  # terms; torch may split the sum of more among threads
_MOST = 1 << 18  # terms that wait


def chunk_sums(values: torch.Tensor) -> torch.Tensor:
    """float64 [rows, chunks] of float64 [rows, n], CHUNK elements each but for the last."""
    n = values.shape[1]
    whole = n // CHUNK * CHUNK
    sums = torch.unflatten(values[:, :whole], 1, (-1, CHUNK)).sum(2) if whole else values[:, :0]
    return sums if whole == n else torch.cat([sums, values[:, whole:].sum(1, keepdim=True)], 1)


def _segments(terms: torch.Tensor) -> torch.Tensor:
    return torch.unflatten(terms, 1, (-1, _SEGMENT)).sum(2)


class RunningSum:
    """Sums of `rows` kinds of terms, given in their order; the device keeps them, so that nothing waits for it."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows, self._device = rows, device
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._segments: list[torch.Tensor] = []
        self._waiting: list[torch.Tensor] = []
        self._count = 0

    def add(self, terms: torch.Tensor) -> None:
        """Take in float64 [rows, n], which are kept; where the device's memory is full, nothing was taken in."""
        if self._count >= _MOST:
            joined = torch.cat(self._waiting, 1)
            whole = self._count // _SEGMENT * _SEGMENT
            sums, rest = _segments(joined[:, :whole]), joined[:, whole:].clone()
            self._segments.append(sums)
            self._waiting, self._count = [rest], rest.shape[1]
        self._waiting.append(terms)
        self._count += terms.shape[1]

    def total(self) -> F64Array:
        """float64 [rows]."""
        sums = list(self._segments)
        if self._count:
            joined = torch.cat(self._waiting, 1)
            sums.append(_segments(pad(joined, (0, -self._count % _SEGMENT))))
        if not sums:
            return torch.zeros(self._rows, dtype=torch.float64).numpy()
        terms = torch.cat(sums, 1).cpu().numpy()
        last: F64Array = terms.cumsum(axis=1)[:, -1]  # one by one, however many there are
        return last
