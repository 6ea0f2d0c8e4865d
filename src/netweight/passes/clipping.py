"""Values that a quantisation has cut off: farther out than the codes of their group reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.checkpoint.tensors.ends import Ends, ends_of

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EVERY", "RUN", "SCRATCH", "WHOLE", "Clipping"]

RUN, EVERY = 1 << 16, 16
"""Of a tensor of more than WHOLE elements, the first of every EVERY runs of RUN neighbours are looked at."""
WHOLE = RUN * EVERY
SCRATCH = RUN * 8 * 6
"""Bytes that a thread takes beside what it takes to read `b`."""


class Clipping:
    """Counts over elements of `a`, a stretch of them: `looked_at`, those that are finite, and `clipped`, those beyond
    what the codes of `b` can say there, by more than half of the last step. Nothing where those have no ends.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self._a, self._ends = a, ends_of(b)
        self.looked_at = self.clipped = 0

    def add(self, start: int, raw: memoryview) -> None:
        """Take in the bytes `raw` of elements of `a` from `start`; raises ReadError where b's file cannot be read."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        ends = self._ends
        if ends is None:
            return
        values = np.frombuffer(raw, self._a.dtype.to_numpy())
        stop = start + len(values)
        step = RUN if self._a.size <= WHOLE else WHOLE
        for first in range(start // step * step, stop, step):
            low, high = max(start, first), min(stop, first + RUN)
            if low < high:
                self._count(ends, low, values[low - start : high - start].astype(np.float64))

    def _count(self, ends: Ends, start: int, values: np.ndarray[Any, np.dtype[Any]]) -> None:
        import numpy as np  # noqa: PLC0415

        low = _values(ends.low, start, len(values))
        high = -low if ends.high is None else _values(ends.high, start, len(values))
        with np.errstate(invalid="ignore", over="ignore"):
            reach = high - low  # of a negative scale negative
            limits = low - ends.below * reach, high + ends.above * reach
            finite = np.isfinite(values) & np.isfinite(reach)
            beyond = (values < np.minimum(*limits)) | (values > np.maximum(*limits))
        self.looked_at += int(np.count_nonzero(finite))
        self.clipped += int(np.count_nonzero(beyond & finite))


def _values(tensor: Tensor, start: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """float64 [count]."""
    import numpy as np  # noqa: PLC0415

    held = np.empty(count, tensor.dtype.to_numpy())
    read_elements(tensor, start, held.view(np.uint8).data)
    return held.astype(np.float64)
