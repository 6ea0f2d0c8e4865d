"""A fixed sample of matrices that fine-tunes changed: a block of each is read again, for the form of its update.

Of every kind of module PER_MODULE matrices are taken, spread over the layers, and of each up to ROWS rows in RUNS runs
spread over the matrix, of these the first COLS columns. A block of a matrix of rank r has rank r too, where its sides
are longer, but for matrices made so that it has not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.checkpoint.announce import announce_elements
from netweight.checkpoint.matrix import Part
from netweight.checkpoint.tensor import Skipped, Tensor, read_elements
from netweight.dtypes import Kind
from netweight.errors import ReadError
from netweight.measures.registry import find
from netweight.params.layouts.fused import Layout, pieces
from netweight.params.modules import module_of
from netweight.params.pairing import Aligned
from netweight.passes.far_work import FarWork
from netweight.run.blas import blas_threads, keep_blas_threads
from netweight.run.execute import Executor
from netweight.statistics.task_vector import block_of

if TYPE_CHECKING:
    from netweight.kernels.arrays import Array

__all__ = [
    "COLS",
    "PER_MODULE",
    "ROWS",
    "SCRATCH",
    "Budget",
    "Sample",
    "UpdatesOfOne",
    "budget_of",
    "choose_samples",
    "is_matrix",
    "measure_samples",
]  # fmt: skip

UpdatesOfOne = dict[int, dict[str, Any]]
"""{number of the model: fields of measures.update} of one parameter."""

PER_MODULE, ROWS, COLS, RUNS = 3, 512, 2048, 8
_PIECE = 1 << 19  # elements that are read at a time
SCRATCH = 5 * 8 * ROWS * COLS
"""Bytes that a sample takes while it is looked at, beside what its tensors take to be read."""


@dataclass(frozen=True)
class Sample:
    """A matrix, the `part` of parameter `name`, in the base and in those `models` (by number) that changed it."""

    name: str
    base: Tensor
    models: tuple[tuple[int, Tensor], ...]
    part: Part

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(_bytes_of(tensor, self.part) for tensor in (self.base, *(t for _, t in self.models)))


@dataclass(frozen=True)
class Budget:
    """The most that a sample is: `matrices`, and `nbytes` to read again."""

    matrices: int
    nbytes: int


def is_matrix(aligned: Aligned) -> bool:
    """Whether it is a weight with more than one row and column, in floats."""
    shape = aligned.base.shape
    floats = all(t.dtype.kind is Kind.FLOAT for t in (aligned.base, *aligned.models) if t is not None)
    learned = aligned.parameter.kind == "weight" and aligned.parameter.state == "learned"
    return learned and floats and len(shape) > 1 and shape[0] > 1 and aligned.base.size > shape[0]


def budget_of(parameters: Iterable[Aligned], layout: Layout) -> Budget:
    """What `choose_samples` takes at most, whatever changed: from headers alone."""
    matrices = nbytes = 0
    for held in _by_module(p for p in parameters if is_matrix(p)).values():
        parts = [(p, _part(p, layout)) for p in held]
        models = max(len(p.models) for p in held)
        matrices += min(len(held), PER_MODULE * models)
        for number in range(models):
            costs = [_bytes_of(p.base, part) + _bytes_of(t, part) for p, part in parts if (t := p.models[number])]
            nbytes += sum(sorted(costs, reverse=True)[:PER_MODULE])
    return Budget(matrices, nbytes)


def choose_samples(
    parameters: Sequence[Aligned], changed: Sequence[Collection[str]], layout: Layout
) -> tuple[Sample, ...]:
    """What is looked at: of every kind of module PER_MODULE of the matrices `changed` [models] by each, in the order of
    `parameters`.
    """
    chosen: dict[str, list[int]] = {}
    for model, names in enumerate(changed):
        for held in _by_module(p for p in parameters if p.name in names and is_matrix(p)).values():
            for p in _spread(held):
                chosen.setdefault(p.name, []).append(model)
    samples = []
    for p in parameters:
        models = tuple((m, t) for m in chosen.get(p.name, ()) if (t := p.models[m]) is not None)
        if models:
            samples.append(Sample(p.name, p.base, models, _part(p, layout)))
    return tuple(samples)


def _by_module(parameters: Iterable[Aligned]) -> dict[str, list[Aligned]]:
    groups: dict[str, list[Aligned]] = {}
    for p in parameters:
        groups.setdefault(module_of(p.parameter), []).append(p)
    return groups


def _spread(held: Sequence[Aligned]) -> list[Aligned]:
    """PER_MODULE of them, spread evenly over the layers."""
    ordered = sorted(held, key=lambda p: (p.parameter.stack, -1 if p.parameter.layer is None else p.parameter.layer))
    places = {(2 * i + 1) * len(ordered) // (2 * PER_MODULE) for i in range(PER_MODULE)}
    return [ordered[place] for place in sorted(places)]


def _part(aligned: Aligned, layout: Layout) -> Part:
    """The matrix itself; of a stack of experts the middle one."""
    whole = [piece.part for piece in pieces(aligned.parameter, aligned.base.shape, layout) if not piece.fused]
    return whole[len(whole) // 2]


def _runs(rows: int) -> list[tuple[int, int]]:
    """(first, count) of the rows that are read."""
    if rows <= ROWS:
        return [(0, rows)]
    count = ROWS // RUNS
    return [(i * (rows - count) // (RUNS - 1), count) for i in range(RUNS)]


def _stretches(part: Part) -> Iterator[tuple[int, int, int]]:
    """(element, rows, columns of each): what is read at a time, whole rows where they are not too long."""
    cols = part.region_cols
    at_once = max(1, _PIECE // cols)
    width = cols if cols <= _PIECE else COLS
    for first, count in _runs(part.region_rows):
        for row in range(first, first + count, at_once):
            yield part.start + row * cols, min(at_once, first + count - row), width


def _bytes_of(tensor: Tensor, part: Part) -> int:
    return sum(tensor.file_bytes_of(start, start + rows * cols) for start, rows, cols in _stretches(part))


def _read(tensor: Tensor, part: Part, *, resumable: bool) -> Array:
    """The block of one tensor, float32, or float64 where it is that: [rows, cols]."""
    kind = tensor.dtype.to_numpy()
    rows, cols = sum(count for _, count in _runs(part.region_rows)), min(part.region_cols, COLS)
    block: Array = np.empty((rows, cols), np.float64 if tensor.dtype.name == "F64" else np.float32)
    done = 0
    for start, count, width in _stretches(part):
        room = np.empty(count * width, kind)
        read_elements(tensor, start, room.view(np.uint8).data, resumable=resumable)
        with np.errstate(invalid="ignore"):  # signalling NaN
            block[done : done + count] = room.reshape(count, width)[:, :cols]
        done += count
    return block


class _SampleReader(FarWork):
    """Reads samples, and says what each model's update is. `resumable`: a ReadError is raised, else it is listed."""

    def __init__(self, *, resumable: bool) -> None:
        self._resumable = resumable
        super().__init__()

    def __call__(self, sample: Sample) -> UpdatesOfOne | Skipped:
        if self.far:
            keep_blas_threads(1)
        try:
            return self._look(sample)
        except ReadError as error:
            if self._resumable:
                raise
            return Skipped(sample.name, str(error))

    def _look(self, sample: Sample) -> UpdatesOfOne:
        update = find("update")
        base = _read(sample.base, sample.part, resumable=self._resumable)
        fields = {}
        for number, tensor in sample.models:
            model = _read(tensor, sample.part, resumable=self._resumable)
            wide = np.promote_types(base.dtype, model.dtype)
            block = block_of(base.astype(wide, copy=False), model.astype(wide, copy=False), tensor.dtype)
            fields[number] = dict(update.derive(block))
        return fields


def measure_samples(
    samples: Sequence[Sample],
    executor: Executor,
    at_once: int,
    advance: Callable[[int], None],
    *,
    resumable: bool,
) -> dict[str, UpdatesOfOne | Skipped]:
    """{parameter: {number of the model: fields of measures.update}}, or why it could not be read; `advance` is told of
    bytes that were read.

    So many `at_once`, for the memory that they take. Linear algebra has one thread for each, so that its sums are the
    same for any number of workers. Raises ReadError where a run is `resumable`.
    """
    announce_elements(
        (tensor, start, rows * cols)
        for sample in samples
        for tensor in (sample.base, *(t for _, t in sample.models))
        for start, rows, cols in _stretches(sample.part)
    )
    waiting = deque(samples)
    flying = 0

    def next_sample() -> Sample | None:
        nonlocal flying
        if not waiting or flying >= at_once:
            return None
        flying += 1
        return waiting.popleft()

    updates: dict[str, UpdatesOfOne | Skipped] = {}
    with blas_threads(1):
        for sample, fields in executor.run(next_sample, _SampleReader(resumable=resumable)):
            flying -= 1
            updates[sample.name] = fields
            advance(sample.nbytes)
    return updates
