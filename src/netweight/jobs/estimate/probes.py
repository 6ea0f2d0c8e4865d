"""The passes of jobs, timed on made tensors in memory: what the rates of a machine are measured by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from netweight.dtypes import DTYPES, DType
from netweight.jobs.estimate.flops import eigenvalue_flops, gram_flops, kmeans_flops, seeding_flops
from netweight.jobs.estimate.made import made_family, made_tensor
from netweight.jobs.estimate.rates import Rate
from netweight.jobs.journalled import Record
from netweight.run.progress import Silent

if TYPE_CHECKING:
    from netweight.kernels.merging import MergeKernels
    from netweight.kernels.protocol import Kernels
    from netweight.measures.registry import Measure
    from netweight.merging.target import Target

__all__ = [
    "probe_differences",
    "probe_kmeans",
    "probe_merge",
    "probe_pairs",
    "probe_spectrum",
    "probe_values",
    "probe_zeros",
]

T = TypeVar("T")
R = TypeVar("R")

_COLS = 1024
_SIZES = (1 << 10, 1 << 17, 1 << 21)  # elements of an item; the last ones leave the first caches
_SHORT = (64, 512, 1280)  # sides of a matrix: the last one takes the way of large ones
_ON_GPU = 4096  # a side that keeps a GPU busy
_FAST = ("torch cuda", "torch xpu")  # names of backends with float64 of their own
_PATIENCE = 0.12  # seconds for the repetitions of one point


def _curve(unit: str, sizes: Sequence[int], make: Callable[[int], Callable[[], object]]) -> Rate:
    """A rate from the passes that `make` gives for each size; the first run of each is not counted."""
    points = []
    for size in sizes:
        run = make(size)
        run()
        points.append((float(size), _timed(run)))
    return Rate(unit, tuple(points))


def _timed(run: Callable[[], object]) -> float:
    taken: list[float] = []
    while sum(taken) < _PATIENCE and len(taken) < 7:
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return median(taken)


def _shape(size: int) -> tuple[int, int]:
    return max(1, size // _COLS), min(size, _COLS)


class _Serial:
    """An executor that works in the caller's thread."""

    workers = 1

    def run(self, next_task: Callable[[], T | None], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """See run.execute.Executor."""
        while (task := next_task()) is not None:
            yield task, work(task)

    def close(self) -> None:
        """There is nothing to end."""


def probe_values(dtype: DType, measures: Sequence[Measure], kernels: Kernels) -> Rate:
    """`scan` without spectra: one reading of a matrix, and what the measures make of it. Unit: an element."""
    from netweight.checkpoint.matrix import open_matrix, whole
    from netweight.passes.matrices import Scratch
    from netweight.passes.scans import measure_matrix

    scratch = Scratch(kernels)

    def make(size: int) -> Callable[[], object]:
        rows, cols = _shape(size)
        tensor = made_tensor(dtype, (max(2, rows), cols // 2 if rows == 1 else cols))
        return lambda: measure_matrix(open_matrix(tensor, whole(tensor.shape)), measures, scratch)

    return _curve("element", _SIZES, make)


def probe_spectrum(measures: Sequence[Measure], kernels: Kernels) -> tuple[Rate, Rate]:
    """(Gram matrices, their eigenvalues with what the measures make of them), one BLAS thread. Unit: a FLOP."""
    from netweight.run.blas import blas_threads
    from netweight.statistics.spectrum import Spectrum

    dtype = DTYPES["BF16"]
    grams, values = [], []
    with blas_threads(1):
        for short in (*_SHORT, _ON_GPU) if kernels.name.startswith(_FAST) else _SHORT:
            tensor = made_tensor(dtype, (2 * short, short))
            block = tensor.read().view("u1").reshape(-1)
            taken: list[tuple[float, float]] = []
            for _ in range(2 if short >= _SHORT[-1] else 4):  # the first run may load what it calls
                begun = time.perf_counter()
                accumulator = kernels.spectrum(dtype, 2 * short, short)
                accumulator.add(block, 2 * short)
                between = time.perf_counter()
                spectrum = Spectrum.of(accumulator)
                for measure in measures:
                    measure.derive(spectrum)
                taken.append((between - begun, time.perf_counter() - between))
            grams.append((float(gram_flops(short, 2 * short)), min(t[0] for t in taken)))
            values.append((float(eigenvalue_flops(short)), min(t[1] for t in taken)))
    return Rate("FLOP", tuple(grams)), Rate("FLOP", tuple(values))


def probe_differences(dtypes: Sequence[DType], kernels: Kernels) -> Rate:
    """`delta`: base and models side by side, and the row of every model. Unit: an element of the base."""
    from netweight.measures.registry import find
    from netweight.params.align import Aligned
    from netweight.params.role import classify_all
    from netweight.passes.differences import measure_differences, plan_tasks

    drift = find("drift")

    def make(size: int) -> Callable[[], object]:
        base, *models = made_family(list(dtypes), _shape(size))
        parameter = classify_all({base.name: base.shape})[base.name]
        parameters = [Aligned(base.name, parameter, base, tuple(models))]
        tasks = plan_tasks(parameters)

        def run() -> None:
            for _, statistics in measure_differences(parameters, tasks, _Serial(), kernels, Silent()):
                norm = statistics.base_l2()
                for i in range(len(models)):
                    drift.derive(statistics.distribution(i), norm)

        return run

    most = max(_SIZES[1] * 2, _SIZES[-1] // len(dtypes))
    return _curve("element", (*_SIZES[:2], most), make)


def probe_pairs(a: DType, b: DType, kernels: Kernels) -> Rate:
    """`compare`: two tensors side by side. Unit: a pair of elements."""
    from netweight.measures.registry import find
    from netweight.params.pairing import Pair
    from netweight.params.role import classify_all
    from netweight.passes.pairs import measure_pairs, plan_pairs

    change = find("change")

    def make(size: int) -> Callable[[], object]:
        first, second = made_family([a, b], _shape(size))
        pairs = [Pair(classify_all({first.name: first.shape})[first.name], first, second)]
        tasks = plan_pairs(pairs)

        def run() -> None:
            for _, statistics in measure_pairs(pairs, tasks, _Serial(), kernels, Silent()):
                change.derive(statistics)

        return run

    return _curve("element", _SIZES, make)


class _Nowhere:
    """A sink that keeps nothing."""

    def write(self, name: str, offset: int, data: memoryview) -> None:
        """See merge_steps.Sink."""

    def settle(self, name: str) -> None:
        """See merge_steps.Sink."""


def probe_merge(target: Target, kernels: MergeKernels, *, norms: bool = False) -> Rate:
    """`merge`: a parameter made as `target` is, of inputs of the same types, and written nowhere; with `norms` only the
    look at the norms of its task vectors. Unit: an element of the output.
    """
    from netweight.jobs.merge.plan import course_of
    from netweight.jobs.merge.weights import measure_grams
    from netweight.merging.target import Input, Piece
    from netweight.passes.merges import run_courses

    def make(size: int) -> Callable[[], object]:
        shape = _shape(size)
        tensors = made_family([source.pieces[0].tensor.dtype for source in target.inputs], shape)
        made = replace(
            target,
            shape=shape,
            inputs=tuple(Input(i, (Piece(t, 0, t.size),)) for i, t in enumerate(tensors)),
            subject=None if target.subject is None else replace(target.subject, shape=shape),
        )
        if norms:
            return lambda: measure_grams([made], _Serial(), kernels, Silent(), Record())
        return lambda: list(run_courses([made], course_of, _Serial(), kernels, _Nowhere(), Silent()))

    most = max(_SIZES[1] * 2, _SIZES[-1] // len(target.inputs))
    return _curve("element", (*_SIZES[:2], most), make)


def probe_zeros(dtype: DType) -> Rate:
    """`structure --deep`: exact zeros. Unit: an element."""
    from netweight.checkpoint.tensor import Checkpoint
    from netweight.jobs.structure.model import analyse
    from netweight.jobs.structure.zeros import count_zeros

    def make(size: int) -> Callable[[], object]:
        tensor = made_tensor(dtype, _shape(size))
        found = analyse(Checkpoint("made", {tensor.name: tensor}, format="safetensors", files=()), "made")
        return lambda: count_zeros(found, 1, Silent())

    return _curve("element", _SIZES, make)


def probe_kmeans(cols: int) -> Rate:
    """`embeddings`: k-means of scikit-learn on a sample, one thread. Unit: a FLOP."""
    import numpy as np

    from netweight.jobs.embeddings.search import RESTARTS, SEARCH_ITERATIONS, fit_all, one_thread_each

    rows, k = 2048, 16
    sample = np.random.default_rng(0).standard_normal((rows, cols), dtype=np.float32)
    flops = RESTARTS * (SEARCH_ITERATIONS * kmeans_flops(rows, cols, k) + seeding_flops(rows, cols, k))
    with one_thread_each():
        fit_all(sample[:256], [4], 0, _Serial(), lambda _: None)
        begun = time.perf_counter()
        fit_all(sample, [k], 0, _Serial(), lambda _: None)
        return Rate("FLOP", ((float(flops), time.perf_counter() - begun),))
