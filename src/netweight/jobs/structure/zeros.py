"""Exact zeros in a model's data: per tensor, rows and columns of nothing else, and per layer; every weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from netweight.checkpoint.announce import announce_tensors
from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import DType, Kind
from netweight.jobs.structure.model import Analysed
from netweight.jobs.structure.zero_layers import NO_ZERO, ONE_ZERO
from netweight.run.progress import Progress
from netweight.run.threads import ThreadExecutor

__all__ = ["TensorZeros", "Zeros", "count_zeros"]

_TASK = 1 << 24  # elements of a task
_BLOCK = 1 << 18  # elements at a time: their bytes stay in the cache
_WIDEST = 1 << 22  # columns whose zeros are counted at most


@dataclass(frozen=True)
class TensorZeros:
    """Zeros of one tensor, -0.0 counted as zero. `rows` and `columns` count those of nothing else in a matrix (all but
    the last dimension are rows), as it is stored; None where there is no matrix.
    """

    name: str
    elements: int
    zeros: int
    rows: int | None
    columns: int | None
    layer: tuple[str, int] | None


@dataclass(frozen=True)
class Zeros:
    """Zeros by tensor; `skipped` are (name, reason) of tensors whose zeros could not be counted."""

    tensors: tuple[TensorZeros, ...]
    skipped: tuple[tuple[str, str], ...]

    def layer(self, stack: str, index: int) -> dict[str, Any]:
        """The sums of one layer; `all_zero` only where every element was read and is zero."""
        rows = [t for t in self.tensors if t.layer == (stack, index)]
        elements, zeros = sum(t.elements for t in rows), sum(t.zeros for t in rows)
        return {
            "elements": elements,
            "zeros": zeros,
            "zero_share": zeros / elements if elements else 0.0,
            "zero_rows": sum(t.rows or 0 for t in rows),
            "zero_columns": sum(t.columns or 0 for t in rows),
            "all_zero": 0 < elements == zeros,
        }

    def to_dict(self, total: int) -> dict[str, Any]:
        """For JSON; `total` are the model's parameters."""
        elements, zeros = sum(t.elements for t in self.tensors), sum(t.zeros for t in self.tensors)
        keys = dict.fromkeys(t.layer for t in self.tensors if t.layer is not None)
        return {
            "elements": elements,
            "zeros": zeros,
            "zero_share": zeros / elements if elements else 0.0,
            "nonzero_params": total - zeros,
            "all_zero_layers": [
                f"{stack}.{index}" if stack else index for stack, index in keys if self.layer(stack, index)["all_zero"]
            ],
            "tensors": [
                {"name": t.name, "zeros": t.zeros, "zero_rows": t.rows, "zero_columns": t.columns} for t in self.tensors
            ],
            "not_counted": [{"name": name, "reason": reason} for name, reason in self.skipped],
        }


@dataclass(frozen=True)
class _Task:
    number: int
    tensor: Tensor
    start: int
    stop: int
    columns: int


def count_zeros(model: Analysed, workers: int, progress: Progress) -> Zeros:
    """Read every weight of `model` (ties once, no buffers) and count; raises ReadError."""
    tensors: list[tuple[Tensor, tuple[str, int] | None]] = []
    skipped = []
    for name, parameter in model.parameters.items():
        if name in model.structure.tied or parameter.buffer:
            continue
        tensor = model.checkpoint[name]
        key = None if parameter.layer is None else (parameter.stack, parameter.layer)
        if tensor.dtype.kind is not Kind.FLOAT or tensor.dtype.name in NO_ZERO:
            skipped.append((name, f"{tensor.dtype}: a zero of the model is not a zero here"))
        else:
            tensors.append((tensor, key))
    announce_tensors(tensor for tensor, _ in tensors)
    tasks = [task for number, (tensor, _) in enumerate(tensors) for task in _cut(number, tensor)]
    progress.start(len(tensors), sum(tensor.file_bytes for tensor, _ in tensors))
    zeros = [0] * len(tensors)
    rows = [0] * len(tensors)
    columns: dict[int, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    try:
        waiting = iter(tasks)
        for task, (count, empty_rows, used) in ThreadExecutor(workers).run(lambda: next(waiting, None), _count):
            zeros[task.number] += count
            rows[task.number] += empty_rows
            if used is not None:
                before = columns.get(task.number)
                columns[task.number] = used if before is None else before | used
            last = task.stop == task.tensor.size
            progress.advance(int(last), task.tensor.file_bytes_of(task.start, task.stop))
    finally:
        progress.stop()
    model.checkpoint.check_unchanged()
    return Zeros(
        tuple(
            TensorZeros(
                tensor.name,
                tensor.size,
                zeros[i],
                rows[i] if i in columns else None,
                int(np.count_nonzero(~columns[i])) if i in columns else None,
                key,
            )
            for i, (tensor, key) in enumerate(tensors)
        ),
        tuple(skipped),
    )


def _cut(number: int, tensor: Tensor) -> Iterator[_Task]:
    """Tasks of whole rows."""
    columns = tensor.shape[-1] if len(tensor.shape) > 1 and 0 < tensor.shape[-1] <= _WIDEST else 0
    step = max(1, _TASK // columns) * columns if columns else _TASK
    for start in range(0, tensor.size, step):
        yield _Task(number, tensor, start, min(start + step, tensor.size), columns)


def _count(task: _Task) -> tuple[int, int, np.ndarray[Any, np.dtype[np.bool_]] | None]:
    """(zeros, rows of zeros, columns with anything else)."""
    tensor, columns = task.tensor, task.columns
    pattern, mask = _pattern(tensor.dtype)
    step = max(1, _BLOCK // columns) * columns if columns else _BLOCK
    buffer = np.empty(min(step, task.stop - task.start), pattern)
    used = np.zeros(columns, bool) if columns else None
    zeros = empty = 0
    for start in range(task.start, task.stop, step):
        block = buffer[: min(step, task.stop - start)]
        tensor.read_into(start, block.view(np.uint8).data)
        if mask is not None:
            np.bitwise_and(block, mask, out=block)
        nonzero = block != 0
        zeros += len(block) - int(np.count_nonzero(nonzero))
        if used is not None:
            matrix = nonzero.reshape(-1, columns)
            if not matrix.all():
                empty += len(matrix) - int(np.count_nonzero(matrix.any(axis=1)))
                used |= matrix.any(axis=0)
            else:
                used[:] = True
    return zeros, empty, used


def _pattern(dtype: DType) -> tuple[np.dtype[Any], Any]:
    """(the unsigned type of an element's bits, what to keep of them: all but the sign)."""
    pattern = np.dtype(f"<u{dtype.bits // 8}")
    if dtype.name in ONE_ZERO:
        return pattern, None
    return pattern, pattern.type((1 << (dtype.bits - 1)) - 1)
