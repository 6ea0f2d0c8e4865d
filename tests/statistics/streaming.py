"""Feeds arrays to the accumulators as a job feeds tensors: in blocks and stretches, with a second look where asked."""

from __future__ import annotations

import numpy as np

from netweight.dtypes import DTYPES
from netweight.kernels.cpu import CpuKernels
from netweight.statistics.difference import DifferenceStatistics

KERNELS = CpuKernels()


def _fill(accumulator, arrays, start, stop):
    for buffer, array in zip(accumulator.buffers, arrays, strict=False):
        if array is not None:
            raw = np.ascontiguousarray(array[start:stop]).view(np.uint8)
            buffer[: len(raw)] = raw


def _feed(accumulator, arrays, start, stop, block):
    for first in range(start, stop, block):
        last = min(first + block, stop)
        _fill(accumulator, arrays, first, last)
        accumulator.add(last - first)


def statistics_of(base, models, names, *, stretch=1 << 24, block=None, order=None, kernels=KERNELS):
    """`base` and `models`: flat arrays or None; `names`: their element types. Returns filled DifferenceStatistics."""
    dtypes = [None if a is None else DTYPES[n] for a, n in zip([base, *models], names, strict=True)]
    arrays = [base, *models]
    size = next(len(a) for a in arrays if a is not None)
    spans = [(s, min(s + stretch, size)) for s in range(0, max(size, 1), stretch)]
    accumulator = kernels.differences(len(models))
    statistics = DifferenceStatistics(len(models), len(spans))
    for number in order or range(len(spans)):
        kept = statistics.kept()
        accumulator.start(dtypes, kept)
        _feed(accumulator, arrays, *spans[number], block or accumulator.block)
        statistics.add(number, accumulator.partial(), kept)
    looks = 0
    while (wanted := statistics.unresolved()) is not None:
        level, prefixes = wanted
        refine = kernels.refine(len(models))
        refine.start(dtypes, prefixes, level)
        _feed(refine, arrays, 0, size, refine.block)
        statistics.refine(refine.counts())
        looks += 1
    statistics.looks = looks
    return statistics
