"""Lines into columns: the transpose of a matrix, block by block."""

from __future__ import annotations

from netweight.kernels.arrays import Array
from netweight.kernels.cpu.compiled import compiled_exactly

__all__ = ["APART", "turn"]

APART = 16
"""Elements between lines that lie apart: those that share the low bits of their addresses wait for each other."""

_TILE = 8  # of a line that are turned before the next line's: so many columns are written at a time


@compiled_exactly
def turn(lines: Array, step: int, count: int, first: int, out: Array) -> None:
    """Fill columns `first` to `first + count` of `out` [n, m] with as many lines of n elements, each `step` behind the
    one before in `lines`; unsigned integers of one size.
    """
    for low in range(0, len(out), _TILE):
        high = min(low + _TILE, len(out))
        for line in range(count):
            at = line * step
            for i in range(low, high):
                out[i, first + line] = lines[at + i]
