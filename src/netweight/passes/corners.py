"""A small part of every tensor of a model, the same of every model: the first rows of it, and of those the first
columns; of the token embedding and the head rows of chosen tokens, of the embedding whole.

Two models can then be set against each other element by element, whatever else they are. Prefixes nest: what one has
fewer of is compared with the beginning of the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from netweight.checkpoint.matrix import whole
from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.kernels.arrays import F32Array
from netweight.params.layouts.fused import pieces
from netweight.params.layouts.parts import assembled
from netweight.params.model import Model
from netweight.params.role import Parameter, classify_all
from netweight.params.units import keys_of
from netweight.run.threads import ThreadExecutor, in_order

__all__ = ["COLUMNS", "EXPERTS", "TOKENS", "Corner", "corners", "rows_of", "wanted"]

COLUMNS = 128
"""Columns that are kept of a row, of matrices that are no embedding."""

EXPERTS = 4
"""Experts of a layer that are read: the first ones."""

TOKENS = tuple((start, 32) for start in (0, 96, 512, 2048, 8192, 24576))
"""Runs of rows of an embedding: (first, how many), by absolute numbers, so that a longer vocabulary has the same."""

_WIDEST = 8192  # columns of an embedding that are kept
_LONGEST = 16_384  # elements of a vector
_READ = 131_072  # elements that are read of a matrix, about
_ROWS = (16, 64)  # at least, at most
_TOKEN_ROLES = ("embedding", "output")


@dataclass(frozen=True)
class Corner:
    """What was read of one tensor: `values` (rows, columns) as float32, of the rows `rows`, which are runs (first, how
    many). `digest`: of the whole rows as the file stands for them, with their type.
    """

    key: str
    parameter: Parameter
    shape: tuple[int, ...]
    dtype: str
    stored: str
    rows: tuple[tuple[int, int], ...]
    values: F32Array
    digest: str
    read_bytes: int = 0

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the rows that were read."""
        return tuple(row for first, count in self.rows for row in range(first, first + count))


def rows_of(shape: tuple[int, ...], parameter: Parameter) -> tuple[tuple[int, int], ...]:
    """The runs of rows that are read of a tensor of this shape: none of one that is empty."""
    if not prod(shape):
        return ()
    if len(shape) < 2:
        return ((0, 1),)
    count, cols = shape[0], prod(shape[1:])
    if parameter.role in _TOKEN_ROLES and parameter.slot in ("token_embedding", "lm_head"):
        runs = [(first, min(many, count - first)) for first, many in TOKENS if first < count]
        return tuple(runs)
    return ((0, min(count, _ROWS[1], max(_ROWS[0], _READ // cols))),)


def corners(model: Model, workers: int) -> Iterator[Corner]:
    """Of every tensor that training learns, in the order of the file; float types only.

    A tensor is read by one thread in a few runs of whole rows. Raises ReadError.
    """
    held = dict(wanted(model))
    keys = keys_of({name: parameter for name, (_, parameter) in held.items()})
    return in_order(list(held), lambda name: _corner(keys[name], *held[name]), ThreadExecutor(workers))


def wanted(model: Model) -> Iterator[tuple[str, tuple[Tensor, Parameter]]]:
    """(name, (tensor, what it is)) of every tensor that training learns, of the first experts, with a row for each
    output.
    """
    settled = classify_all({name: model[name][0].shape for name in model})
    for name in model:
        tensor, parameter = model[name][0], settled[name]
        few = parameter.expert is None or parameter.expert < EXPERTS
        if parameter.state == "learned" and few and tensor.size and _is_float(tensor):
            yield name, (_turned(tensor, parameter, model), parameter)


def _turned(tensor: Tensor, parameter: Parameter, model: Model) -> Tensor:
    """The tensor with a row for each output, where the file has one for each input (GPT-2's)."""
    part = pieces(parameter, tensor.shape, model.layout)[0].part
    if not part.transposed or part.size != tensor.size:
        return tensor
    return assembled(tensor.name, part.matrix_shape, [(whole(part.matrix_shape), tensor, part)])


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype.kind.value == "float" and tensor.dtype.numpy_name is not None


def _corner(key: str, tensor: Tensor, parameter: Parameter) -> Corner:
    shape = tensor.shape
    cols = prod(shape[1:]) if len(shape) > 1 else tensor.size
    runs = rows_of(shape, parameter)
    vector = len(shape) < 2
    kept = min(cols, _LONGEST if vector else _WIDEST if parameter.role == "embedding" else COLUMNS)
    digest = hashlib.sha256(f"{tensor.dtype.name} {shape}".encode())
    blocks = []
    dtype = tensor.dtype.to_numpy()
    for first, count in runs:
        block = np.empty((count, min(cols, _LONGEST) if vector else cols), dtype)
        read_elements(tensor, first * cols, block.reshape(-1).view(np.uint8).data)
        digest.update(block.tobytes())
        with np.errstate(over="ignore"):
            blocks.append(block[:, :kept].astype(np.float32))
    values = np.concatenate(blocks)
    read = sum(tensor.file_bytes_of(first * cols, first * cols + count * cols) for first, count in runs)
    return Corner(key, parameter, shape, tensor.dtype.name, tensor.stored, runs, values, digest.hexdigest()[:32], read)
