"""Which elements of a weight share a scale: from the shapes of both, and from config.json where they leave it open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from netweight.checkpoint.decoders.quantisation import compressed_tensors, declared
from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import Kind

__all__ = ["Blocks", "blocks_of"]

_USUAL = (128, 128)  # rows and columns of a block, where config does not say
_EXPONENTS = (1, 32)  # of scales that are bytes: MXFP8


class Blocks(NamedTuple):
    """`steps`: elements of a block along every axis (the last block may be cut); `grid`: how many blocks."""

    steps: tuple[int, ...]
    grid: tuple[int, ...]


def blocks_of(
    shape: tuple[int, ...], scales: Tensor, config: Mapping[str, Any] | None, *, by_blocks: bool = False
) -> Blocks | None:
    """The blocks of a weight of `shape`: all of it, every row, or blocks of rows and columns. None where its scales are
    no floats of up to 32 bits (or bytes, one for every 32 columns), or fit no blocks, or two sizes that config has.
    `by_blocks`: only blocks of rows and columns fit, of a matrix.
    """
    if by_blocks and not len(shape) == len(scales.shape) == 2:
        return None
    grid, rank = scales.shape, len(shape)
    if scales.size == 1:
        grid = (1,) * rank
    elif len(grid) == 1 and rank > 1:
        grid = (*grid, *(1,) * (rank - 1))  # one for every row
    elif len(grid) == 2 * rank and set(grid[1::2]) == {1}:
        grid = grid[::2]  # as modelopt has them: [blocks of rows, 1, blocks of columns, 1]
    exponents = scales.dtype.name == "U8"
    floats = scales.dtype.kind is Kind.FLOAT and scales.dtype.bits <= 32
    if not shape or len(grid) != rank or not (floats or exponents):
        return None
    sizes = [_EXPONENTS] if exponents else _sides(config)
    found = {steps for sides in sizes if (steps := sides if by_blocks else _steps(shape, grid, sides))}
    found = {steps for steps in found if all(map(_fits, shape, grid, steps))}
    return Blocks(found.pop(), grid) if len(found) == 1 else None


def _fits(n: int, count: int, step: int) -> bool:
    return count == max(1, -(-n // step))


def _steps(shape: tuple[int, ...], grid: tuple[int, ...], sides: tuple[int, int]) -> tuple[int, ...] | None:
    steps = []
    for axis, (n, count) in enumerate(zip(shape, grid, strict=True)):
        from_end = axis - len(shape)
        step = max(n, 1) if count == 1 else 1 if count == n else sides[from_end] if from_end >= -2 else 0
        if not step:
            return None
        steps.append(step)
    return tuple(steps)


def _sides(config: Mapping[str, Any] | None) -> list[tuple[int, int]]:
    """The sizes of blocks, [rows, columns], that config has."""
    sides = declared(config).get("weight_block_size")
    if isinstance(sides, list) and len(sides) == 2 and all(type(n) is int and n > 0 for n in sides):
        return [(sides[0], sides[1])]
    made = compressed_tensors(config)
    schemes = made.schemes if made else ()
    return [s.block or (1, s.group or 1) for s in schemes if s.block or s.group] or [_USUAL]
