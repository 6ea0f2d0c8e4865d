"""Values that a quantisation has cut off: farther out than the codes of their group reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.checkpoint.tensors.ends import Ends, ends_of

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[Any, np.dtype[Any]]

__all__ = ["PERIOD", "RUN", "SCRATCH", "WHOLE", "Clipping"]

RUN, PERIOD = 1 << 14, 1 << 21
"""Of a tensor of more than WHOLE elements, the first RUN of every PERIOD are looked at."""
WHOLE = 1 << 17
SCRATCH = RUN * 64
"""Bytes that a thread takes beside what it takes to read `b`."""


class Clipping:
    """Counts over elements of `a`, a stretch of them: `looked_at`, those that are finite, and `clipped`, those beyond
    what the codes of `b` can say there, by more than half of the last step. Nothing where those have no ends.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self._a, self._ends = a, ends_of(b)
        self.looked_at = self.clipped = 0
        self._room: tuple[Values, ...] = ()

    def add(self, start: int, raw: memoryview) -> None:
        """Take in the bytes `raw` of elements of `a` from `start`; raises ReadError where b's file cannot be read."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        ends = self._ends
        if ends is None:
            return
        if not self._room:  # used again and again: fresh pages would take longer than the arithmetic
            self._room = tuple(np.empty(RUN) for _ in range(5))
        values = np.frombuffer(raw, self._a.dtype.to_numpy())
        stop = start + len(values)
        step = RUN if self._a.size <= WHOLE else PERIOD
        for first in range(start // step * step, stop, step):
            low, high = max(start, first), min(stop, first + RUN)
            if low < high:
                self._count(ends, low, values[low - start : high - start])

    def _count(self, ends: Ends, start: int, of_a: Values) -> None:
        import numpy as np  # noqa: PLC0415

        values, low, high, reach, spare = (room[: len(of_a)] for room in self._room)
        with np.errstate(invalid="ignore", over="ignore"):
            values[:] = of_a
            _read(ends.low, start, low)
            if ends.high is None:
                np.negative(low, out=high)
            else:
                _read(ends.high, start, high)
            np.subtract(high, low, out=reach)  # of a negative scale negative
            finite = np.isfinite(values) & np.isfinite(reach)
            np.multiply(reach, ends.below, out=spare)
            low -= spare
            np.multiply(reach, ends.above, out=spare)
            high += spare
            np.minimum(low, high, out=spare)
            np.maximum(low, high, out=high)
            beyond = (values < spare) | (values > high)
        self.looked_at += int(np.count_nonzero(finite))
        self.clipped += int(np.count_nonzero(beyond & finite))


def _read(tensor: Tensor, start: int, out: Values) -> None:
    """Fill `out` float64."""
    import numpy as np  # noqa: PLC0415

    held = np.empty(len(out), tensor.dtype.to_numpy())
    read_elements(tensor, start, held.view(np.uint8).data)
    out[:] = held
