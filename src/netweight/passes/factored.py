"""Updates in factored form: the factors of tensors, and the inner products that they tell without a dense product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.adapted import AdaptedTensor
from netweight.checkpoint.tensors.quantised import floats_of
from netweight.checkpoint.tensors.updates import ProductTensor, StackedUpdate, UpdateTensor
from netweight.kernels.arrays import F64Array
from netweight.params.pairing import Aligned
from netweight.statistics.factored import Factors, inner, inner_with

__all__ = ["factors_of", "factors_of_update", "has_factors", "products", "same_tensor"]

_ELEMENTS = 1 << 20  # of a dense matrix that are looked at together


def has_factors(tensor: Tensor | None, base: Tensor | None) -> bool:
    """Whether the tensor is `base` with products added, or, where there is no base, products."""
    return tensor is not None and _updates(tensor, base) is not None


def factors_of(tensor: Tensor, base: Tensor | None) -> tuple[Factors, ...] | None:
    """The factors of tensor - base, one for each expert of a stack; None where it has none."""
    updates = _updates(tensor, base)
    if updates is None:
        return None
    each = [factors_of_update(update) for update in updates]
    return tuple(Factors.joined([held[i] for held in each]) for i in range(len(each[0])))


def factors_of_update(update: UpdateTensor) -> tuple[Factors, ...]:
    """The factors of products, in float64."""
    if isinstance(update, StackedUpdate):
        return tuple(factors for one in update.each for factors in factors_of_update(one))
    if not isinstance(update, ProductTensor):
        raise TypeError(f"{update.name}: {update.label} has no factors")
    left, right = (floats_of(side, 0, side.size).astype(np.float64) for side in (update.left, update.right))
    return (Factors(update.scale * left.reshape(-1, update.rank), right.reshape(update.rank, -1)),)


def _updates(tensor: Tensor, base: Tensor | None) -> tuple[UpdateTensor, ...] | None:
    """What was added to `base`, the last first."""
    found: list[UpdateTensor] = []
    held = tensor
    while isinstance(held, AdaptedTensor):
        found.append(held.update)
        held = held.weight
    if isinstance(held, UpdateTensor) and base is None:
        found.append(held)
    elif base is None or not found or _origin(held) != _origin(base):
        return None
    if not all(_is_products(update) for update in found):
        return None
    return tuple(found)


def _is_products(update: UpdateTensor) -> bool:
    return isinstance(update, ProductTensor) or (
        isinstance(update, StackedUpdate) and all(isinstance(one, ProductTensor) for one in update.each)
    )


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether both are one tensor of one file, opened twice."""
    return _origin(a) == _origin(b)


def _origin(tensor: Tensor) -> tuple[object, ...]:
    """What tells that two tensors are one: type, shape and the stored tensors that they are made of."""
    return type(tensor).__name__, tensor.shape, tuple((part.where, part.name) for part in tensor.stored_parts)


def products(
    aligned: Aligned, held: Sequence[tuple[Factors, ...] | None], base: Tensor | None
) -> dict[tuple[int, int], float]:
    """{(i, j): <update i, update j>} for i >= j where one of the two has factors (`held`, those of every model);
    without a `base`, of all that are there. Tensors without factors are read once, block by block, in float64.
    """
    dense = [i for i, tensor in enumerate(aligned.models) if tensor is not None and held[i] is None]
    found: dict[tuple[int, int], float] = {}
    for i, first in enumerate(held):
        for j, second in enumerate(held[: i + 1]):
            if first is not None and second is not None:
                found[i, j] = sum(inner(a, b) for a, b in zip(first, second, strict=True))
    if dense and (base is None or any(factors is not None for factors in held)):
        found |= _with_dense(aligned, held, dense, base)
    return found


def _with_dense(
    aligned: Aligned, held: Sequence[tuple[Factors, ...] | None], dense: Sequence[int], base: Tensor | None
) -> dict[tuple[int, int], float]:
    found: dict[tuple[int, int], float] = {}
    for i in dense:
        tensor = aligned.models[i]
        assert tensor is not None  # noqa: S101 - only those that are there
        for j, factors in enumerate(held):
            if factors is not None:
                cols = factors[0].shape[1]
                size = tensor.size // len(factors)
                key = (max(i, j), min(i, j))
                found[key] = sum(
                    inner_with(one, _rows(tensor, base, at * size, size, cols)) for at, one in enumerate(factors)
                )
        if base is None:
            for j in (j for j in dense if j <= i):
                other = aligned.models[j]
                assert other is not None  # noqa: S101 - as above
                cols = tensor.shape[-1]
                pairs = zip(*(_rows(t, None, 0, tensor.size, cols) for t in (tensor, other)), strict=True)
                found[i, j] = sum(float((a * b).sum()) for (_, a), (_, b) in pairs)
    return found


def _rows(tensor: Tensor, base: Tensor | None, start: int, size: int, cols: int) -> Iterator[tuple[int, F64Array]]:
    """(first row, rows) of tensor - base from element `start`, float64."""
    at_once = max(1, _ELEMENTS // cols) * cols
    for first in range(0, size, at_once):
        count = min(at_once, size - first)
        values = _floats(tensor, start + first, count)
        if base is not None:
            values = values - _floats(base, start + first, count)
        yield first // cols, values.reshape(-1, cols)


def _floats(tensor: Tensor, start: int, count: int) -> F64Array:
    """Elements as float64; those that are NaN or infinite as they are."""
    raw = np.empty(count, tensor.dtype.to_numpy())
    tensor.read_into(start, raw.view(np.uint8).data)
    return raw.astype(np.float64)
