"""A sample of a merge's task vectors, for a page: how far each moves a parameter, and how often they disagree."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.passes.merge_blocks import BlockReader

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array
    from netweight.kernels.merging import MergeKernels
    from netweight.merging.target import Target

__all__ = ["STRETCH", "STRETCHES", "MergeSample", "MergeSampler"]

STRETCHES = 8
STRETCH = 2048
"""Elements that are read at a time, of `STRETCHES` places that lie evenly over a parameter; all of a smaller one."""


@dataclass(frozen=True)
class MergeSample:
    """Over the sampled elements: `rms` of every model's difference to the base, `merged` that of the output's, and
    `conflicts`: the share of elements that some model raises and another lowers, of those that any changes (None where
    none does). NaN where elements are not finite.
    """

    rms: tuple[float, ...]
    merged: float
    conflicts: float | None


class MergeSampler:
    """Samples parameters that have a base, one after another."""

    def __init__(self, kernels: MergeKernels) -> None:
        self._kernels = kernels
        self._reader = BlockReader(kernels, threading.local())

    def __call__(self, target: Target, merged: Tensor) -> MergeSample:
        """Of one parameter and the tensor that was written of it. Raises ReadError."""
        blocks = [self._stretch(target, merged, *span) for span in _spans(target.size)]
        differences = np.concatenate(blocks, axis=1)
        moved, output = differences[:-1], differences[-1]
        up, down = (moved > 0).any(axis=0), (moved < 0).any(axis=0)
        changed = int((up | down).sum())
        with np.errstate(over="ignore", invalid="ignore"):
            rms = np.sqrt(np.mean(np.square(differences), axis=1))
        conflicts = int((up & down).sum()) / changed if changed else None
        return MergeSample(tuple(rms[:-1].tolist()), float(rms[-1]), conflicts if np.isfinite(output).all() else None)

    def _stretch(self, target: Target, merged: Tensor, start: int, stop: int) -> Array:
        """float64 [models + 1, elements]: every model less the base, then the output less the base."""
        inputs = range(len(target.inputs))
        found = [
            x.astype(np.float64) for _, x in self._reader.blocks(target, (start, stop), inputs, None, whole_rows=False)
        ]
        x = np.concatenate(found, axis=1)
        raw = np.empty(merged.dtype.nbytes(stop - start), np.uint8)
        read_elements(merged, start, raw.data)
        output = np.empty(stop - start, np.float64 if merged.dtype.bits == 64 else np.float32)
        self._kernels.widen(raw, merged.dtype, output)
        with np.errstate(invalid="ignore"):
            moved: Array = np.concatenate([x[1:], output[None].astype(np.float64)]) - x[0]
        return moved


def _spans(size: int) -> list[tuple[int, int]]:
    if size <= STRETCHES * STRETCH:
        return [(0, size)]
    starts = np.linspace(0, size - STRETCH, STRETCHES).astype(np.int64)
    return [(int(start), int(start) + STRETCH) for start in starts]
