"""Task vectors of single parameters: factorised into two thin matrices, or measured, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import xxhash

from netweight.checkpoint.announce import announce_tensors
from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.dtypes import DTYPES, DType
from netweight.errors import InputError, printable
from netweight.kernels.cpu.task_vectors import difference, extent
from netweight.passes.crews import crews, run_crew
from netweight.passes.far_work import FarWork
from netweight.run.blas import blas_threads, keep_blas_threads
from netweight.run.execute import Executor
from netweight.run.spread import DeviceKernels
from netweight.statistics.factorisation import Factorised, FactorSink, factorise
from netweight.statistics.row_blocks import NotFiniteError, OutOfRangeError, rows_of_block
from netweight.statistics.singular_vectors import Rule, held_bytes

if TYPE_CHECKING:
    from netweight.kernels.arrays import F32Array
    from netweight.kernels.factors import FactorKernels
    from netweight.kernels.protocol import Kernels

__all__ = [
    "FactorPlan",
    "Factored",
    "Factoriser",
    "PartSinks",
    "SpectrumReader",
    "TaskVector",
    "TaskVectorRows",
    "block_bytes",
    "factor_bytes",
    "key_of",
    "run_vectors",
]

K = TypeVar("K")
R = TypeVar("R")

_ROW = 1 << 20  # elements of a row of what is no matrix
_LISTED = 64  # singular values that a result keeps
_HELD_ON_DEVICE = 1 << 30  # bytes of a matrix that stays on a GPU between looks


@dataclass(frozen=True)
class TaskVector:
    """One parameter of base and fine-tune, of one shape, and what is done with their difference: "factors" of it are
    made, or it is "measured" alone. `memory` that it takes, in bytes; `hold`: up to how many the difference is kept.
    """

    name: str
    base: Tensor
    model: Tensor
    act: Literal["factors", "measured"]
    number: int = 0
    memory: int = 0
    hold: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes to read, once."""
        return self.base.file_bytes + self.model.file_bytes


class TaskVectorRows:
    """statistics.row_blocks.RowBlocks of model - base; what is no matrix is taken as rows of 2^20 elements."""

    def __init__(self, vector: TaskVector) -> None:
        self._vector = vector
        shape = vector.base.shape
        self._flat = len(shape) != 2
        self._size = vector.base.size
        self.rows, self.cols = (-(-self._size // _ROW), min(self._size, _ROW)) if self._flat else shape

    def blocks(self) -> Iterator[F32Array]:
        """See RowBlocks; the last block of what is no matrix may be a part of a row. Raises ReadError."""
        base, model = self._vector.base, self._vector.model
        step = rows_of_block(self.cols) * self.cols if not self._flat else self.cols
        room = min(step, self._size)
        raw = [np.empty(tensor.dtype.nbytes(room), np.uint8) for tensor in (base, model)]
        out = np.empty(room, np.float32)
        for start in range(0, self._size, step or 1):
            count = min(step, self._size - start)
            sides = []
            for tensor, buffer in zip((base, model), raw, strict=True):
                side = buffer[: tensor.dtype.nbytes(count)]
                read_elements(tensor, start, side.data, resumable=True)
                sides.append(side)
            difference(sides[0], base.dtype, sides[1], model.dtype, out[:count])
            yield out[:count].reshape(1, -1) if self._flat else out[:count].reshape(-1, self.cols)


class PartSinks(Protocol):
    """Where the factors of a run go; any thread may ask, and other processes where it pickles."""

    def sink(self, vector: TaskVector) -> FactorSink:
        """The sink of one parameter's factors."""
        ...

    def settle(self, vector: TaskVector) -> tuple[str, int]:
        """(digest of what came, how many elements differ from what a sink that compares has); what was written outlives
        the process from then on.
        """
        ...


@dataclass(frozen=True)
class FactorPlan:
    """How factors are made: the `rule` of their ranks, `stored_error` (see `factorise`), and their type."""

    rule: Rule
    dtype: DType
    stored_error: bool = False


@dataclass(frozen=True)
class Factored:
    """What a worker found of one parameter. `squares`: the sum of squares of its difference, 0 where nothing changed;
    of factors also their `rank`, what they leave of the squares, as stored and unrounded, the method, the number of
    readings, the leading singular values, the digest, and how many elements differ from others.
    """

    squares: float
    rank: int = 0
    left: float = 0.0
    unrounded: float = 0.0
    method: str = ""
    readings: int = 1
    values: tuple[float, ...] = field(default=(), repr=False)
    digest: str = ""
    differing: int = 0


def key_of(name: str) -> int:
    """The seed of a parameter's iteration: its name decides."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


def block_bytes(vector: TaskVector) -> int:
    """Memory for blocks of one parameter, on their way from files to sums, in bytes."""
    cols = vector.base.shape[-1] if len(vector.base.shape) == 2 else 0
    elements = min(max(rows_of_block(cols) * cols, _ROW), vector.base.size)
    width = (vector.base.dtype.bits + vector.model.dtype.bits) // 8 + 2 * 4 + 3 * 8
    return width * elements + vector.base.scratch + vector.model.scratch


def factor_bytes(vector: TaskVector, rule: Rule) -> int:
    """Memory that factors take beside blocks, in bytes."""
    rows, cols = vector.base.shape
    rank = min(rule.rank or min(rows, cols), rows, cols)
    return held_bytes(rule, rows, cols) + 3 * 8 * rank * cols


class Factoriser(FarWork):
    """Works on task vectors; every matrix is read, factorised and compared with its factors by one thread.

    Raises InputError for elements that are NaN or infinite.
    """

    def __init__(self, plan: FactorPlan, sinks: PartSinks, kernels: FactorKernels) -> None:
        self._plan = plan
        self._sinks = sinks
        self._kernels = kernels
        super().__init__()

    def __call__(self, vector: TaskVector) -> Factored:
        """What was found of one task vector; its factors go to its sink."""
        if self.far:
            keep_blas_threads(1)
            announce_tensors([vector.base, vector.model])
        rows = TaskVectorRows(vector)
        try:
            if vector.act == "measured":
                return Factored(_squares(rows))
            result = self._factorise(vector, rows)
        except NotFiniteError as error:
            raise _not_finite(vector, error) from None
        digest, differing = self._sinks.settle(vector) if result.rank else ("", 0)
        return Factored(
            result.squares,
            result.rank,
            result.left,
            result.unrounded,
            result.method,
            result.readings,
            tuple(map(float, result.values[:_LISTED])),
            digest,
            differing,
        )

    def _factorise(self, vector: TaskVector, rows: TaskVectorRows) -> Factorised:
        plan, hold = self._plan, vector.hold if self._kernels.name == "cpu" else _HELD_ON_DEVICE
        return factorise(
            rows,
            plan.rule,
            self._kernels,
            self._sinks.sink(vector),
            plan.dtype,
            key=key_of(vector.name),
            hold=hold,
            stored_error=plan.stored_error,
        )


def _not_finite(vector: TaskVector, error: NotFiniteError) -> InputError:
    if isinstance(error, OutOfRangeError):
        return InputError(f"{printable(vector.name)}: {error}; give --dtype float32")
    return InputError(
        f"{printable(vector.name)}: {error}, in {printable(vector.model.where)} less {printable(vector.base.where)};"
        " mend it, or leave it out with --exclude"
    )


def _squares(rows: TaskVectorRows) -> float:
    total = 0.0
    for block in rows.blocks():
        squares, most = extent(block)
        if not np.isfinite(most):
            raise NotFiniteError("elements that are NaN or infinite")
        total += squares
    return total


class SpectrumReader(FarWork):
    """The squares of all singular values of task vectors that are matrices, descending; of others the sum of squares.

    Raises InputError for elements that are NaN or infinite.
    """

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        super().__init__()

    def __call__(self, vector: TaskVector) -> Any:
        """float64 [n]."""
        if self.far:
            keep_blas_threads(1)
            announce_tensors([vector.base, vector.model])
        rows = TaskVectorRows(vector)
        try:
            return self._spectrum(rows) if vector.act == "factors" else np.array([_squares(rows)])
        except NotFiniteError as error:
            raise _not_finite(vector, error) from None

    def _spectrum(self, rows: TaskVectorRows) -> Any:
        accumulator = self._kernels.spectrum(DTYPES["F32"], rows.rows, rows.cols)
        for block in rows.blocks():
            accumulator.add(block.reshape(-1).view(np.uint8), len(block))
        values = accumulator.singular_values().values
        if values is None:
            raise NotFiniteError("elements that are NaN or infinite")
        return np.square(values)


def run_vectors(
    vectors: Sequence[TaskVector],
    make: Callable[[K], Callable[[TaskVector], R]],
    executor: Executor,
    kernels: K | DeviceKernels[K],
    *,
    budget: int,
    note: Callable[[str], None],
) -> Iterator[tuple[TaskVector, R]]:
    """(task vector, what the work that `make` makes of kernels gives) as they are done, in their order of work.

    As many at a time as `budget` bytes allow, one always. Linear algebra takes one thread each, so that the results do
    not depend on how many there are. What happens to devices goes to `note`.
    """
    with blas_threads(1):
        for at_once, crew in crews(vectors, 0, executor.workers, budget).items():
            yield from run_crew(crew, at_once, executor, make, kernels, name=lambda v: v.name, note=note)
