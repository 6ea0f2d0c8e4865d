"""A merge method run on arrays in memory: cut into stretches and blocks as a real run does, in an order that the seed
shuffles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netweight.kernels.cpu.merging import CpuMergeKernels
from netweight.merging.course import Copy, Subject


def subject(shape, *, models, base=True, each=(), keys=None, bits=32, name="w", **settings):
    each = tuple(each) or ({},) * models
    return Subject(name, tuple(shape), models, base, settings, each, tuple(keys or range(models)), bits)


def run_in_memory(
    course, what: Subject, tensors: Sequence[np.ndarray], *, stretch=8192, block=4096, seed=0, kernels=None
):
    """The output of `course(what)` on `tensors` (base first, where there is one), as float32 or float64.

    `stretch` and `block` count elements and are multiples of 4,096; where whole rows are asked for, as many rows as
    fit. `kernels`: those of the CPU where None are given.
    """
    kernels = kernels or CpuMergeKernels()
    wide = np.float64 if what.bits == 64 else np.float32
    x = np.ascontiguousarray(np.stack([np.asarray(t, wide).reshape(-1) for t in tensors]))
    rng = np.random.default_rng(seed)
    size = x.shape[1]

    def cuts(begin, end, length, whole_rows):
        if whole_rows:
            length = max(1, length // what.cols) * what.cols
        return [(i, min(i + length, end)) for i in range(begin, end, length)]

    def take(look):
        spans = cuts(0, size, stretch, look.whole_rows) or [(0, 0)]
        found = [look.empty(len(x)) for _ in spans]
        for n in rng.permutation(len(spans)):
            for a, b in cuts(*spans[n], block, look.whole_rows):
                look.add(found[n], np.ascontiguousarray(x[:, a:b]), a, kernels)
        return look.merged(found)

    steps = course(what)
    answer = None
    while True:
        try:
            look = steps.send(answer)
        except StopIteration as end:
            final = end.value
            break
        answer = take(look)
    if isinstance(final, Copy):
        return x[final.input].reshape(what.shape).copy()
    used = x if final.inputs is None else x[list(final.inputs)]
    out = np.empty(size, wide)
    for a, b in rng.permutation(cuts(0, size, block, final.whole_rows) or np.zeros((0, 2), int)):
        piece = np.empty(b - a, wide)
        final.block(np.ascontiguousarray(used[:, a:b]), int(a), piece, kernels)
        out[a:b] = piece
    return out.reshape(what.shape)
