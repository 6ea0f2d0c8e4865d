"""LoRA on stacks of experts (PEFT's `target_parameters`): the factors of all experts lie in two matrices."""

from __future__ import annotations

from dataclasses import replace

from netweight.checkpoint.adapters.adapter import Module
from netweight.checkpoint.decoders.found import shown
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.rearranged import Placed, RearrangedTensor
from netweight.checkpoint.tensors.updates import ProductTensor, StackedUpdate
from netweight.dtypes import DTYPES

__all__ = ["fits", "rows_of", "stacked"]


def fits(module: Module, shape: tuple[int, ...]) -> bool:
    """Whether the factors are those of a stack of this shape, whichever way its experts lie."""
    down, up = module.parts.get("lora_A"), module.parts.get("lora_B")
    if down is None or up is None or len(shape) != 3 or len(down.shape) != 2 or len(up.shape) != 2:
        return False
    ranks = down.shape[0]
    return not ranks % shape[0] and ranks == up.shape[1] and {down.shape[1], up.shape[0]} == set(shape[1:])


def stacked(module: Module, shape: tuple[int, ...], *, transposed: bool | None) -> StackedUpdate:
    """The update of a stack [experts, rows, cols]. lora_A [experts * r, in] has the experts' rows one after the other,
    lora_B [out, r * experts] their columns by turns. `transposed`: an expert is [in, out]; None where shapes must tell.

    Raises FormatError where they do not fit, and where square experts leave it open which axis is the input.
    """
    down, up = module.part("lora_A", "lora_B"), module.part("lora_B", "lora_A")
    if not fits(module, shape):
        raise module.wrong(
            f"lora_A {shown(down)} and lora_B {shown(up)} do not fit a stack {list(shape)}: expected [experts * r, in]"
            " and [out, experts * r]"
        )
    experts, rows, cols = shape
    if rows != cols:
        transposed = (rows, cols) == (down.shape[1], up.shape[0])
    elif transposed is None:
        raise module.wrong(
            f"its experts are square, {rows} x {cols}: which axis is the input is not known; merge it in PEFT"
        )
    rank = down.shape[0] // experts
    scale, label = module.scale(rank), f"LoRA r{rank}"
    each = []
    for expert in range(experts):
        left = _placed(up, (up.shape[0], rank), expert, rank * experts, experts)
        right = _placed(down, (rank, down.shape[1]), expert * rank * down.shape[1], down.shape[1], 1)
        if transposed:
            left, right = (
                _placed(down, (down.shape[1], rank), expert * rank * down.shape[1], 1, down.shape[1]),
                _placed(up, (rank, up.shape[0]), expert, experts, rank * experts),
            )
        each.append(ProductTensor(module.name, (rows, cols), DTYPES["F32"], scale, label, left, right, rank))
    return StackedUpdate(module.name, shape, DTYPES["F32"], 1.0, label, tuple(each))


def rows_of(update: ProductTensor, rows: range) -> ProductTensor:
    """The update of some rows of its matrix."""
    cols = update.shape[1]
    left = _placed(update.left, (len(rows), update.rank), rows.start * update.rank, update.rank, 1)
    return replace(update, shape=(len(rows), cols), left=left)


def _placed(tensor: Tensor, shape: tuple[int, int], start: int, row_step: int, col_step: int) -> Tensor:
    rows, cols = shape
    piece = Placed(range(rows), range(cols), tensor, start, row_step, col_step)
    return RearrangedTensor(tensor.name, shape, tensor.dtype, cols, (piece,), own=True)
