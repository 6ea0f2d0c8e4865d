"""Tensors of GGUF laid out as on the hub: rows in another order, transposed, one by one, or several as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.rearranged import Placed, RearrangedTensor

__all__ = ["JOINS", "MOST", "Join", "half_of_each", "in_runs", "one_by_one", "some_rows", "transposed"]

MOST = 1 << 16
"""Matrices of a stack, and heads of a layer: what a file can make of few bytes, and no model has."""


def in_runs(name: str, tensor: Tensor, runs: Iterable[tuple[int, int, int]]) -> Tensor:
    """Rows of `tensor` in another order: each run is (its first row, how many, from one to the next)."""
    cols = tensor.size // tensor.shape[0] if tensor.shape[0] else 0
    if not tensor.size:
        return replace(tensor, name=name)
    placed = []
    to = 0
    for first, count, step in runs:
        placed.append(Placed(range(to, to + count), range(cols), tensor, first * cols, step * cols, 1))
        to += count
    return RearrangedTensor(name, tensor.shape, tensor.dtype, cols, tuple(placed), own=True)


def transposed(name: str, tensor: Tensor) -> Tensor:
    """The transpose of a matrix."""
    outputs, inputs = tensor.shape
    if not tensor.size:
        return replace(tensor, name=name, shape=(inputs, outputs))
    placed = Placed(range(inputs), range(outputs), tensor, 0, 1, inputs)
    return RearrangedTensor(name, (inputs, outputs), tensor.dtype, outputs, (placed,), own=True)


def one_by_one(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """The matrices of a stack that has elements, one by one, numbered in the place of `*`."""
    experts, *shape = tensor.shape
    size = tensor.size // experts
    width = shape[-1]
    rows = size // width
    made: list[tuple[str, Tensor]] = []
    for e in range(experts):
        one = name.replace("*", str(e))
        placed = Placed(range(rows), range(width), tensor, e * size, width, 1)
        made.append((one, RearrangedTensor(one, tuple(shape), tensor.dtype, width, (placed,), own=True)))
    return made


def some_rows(name: str, tensor: Tensor, first: int, count: int) -> Tensor:
    """`count` rows from `first`."""
    cols = tensor.size // tensor.shape[0] if tensor.shape[0] else 0
    shape = (count, *tensor.shape[1:])
    if not cols:
        return replace(tensor, name=name, shape=shape)
    placed = Placed(range(count), range(cols), tensor, first * cols, cols, 1)
    return RearrangedTensor(name, shape, tensor.dtype, cols, (placed,), own=True)


def half_of_each(name: str, tensor: Tensor, half: int) -> Tensor:
    """The first or second half of the rows of every matrix of a stack."""
    experts, rows, cols = tensor.shape
    rows //= 2
    placed = tuple(
        Placed(range(e * rows, (e + 1) * rows), range(cols), tensor, (2 * e + half) * rows * cols, cols, 1)
        for e in range(experts)
    )
    return RearrangedTensor(name, (experts, rows, cols), tensor.dtype, cols, placed, own=True)


@dataclass(frozen=True)
class Join:
    """`parts` of a block in GGUF, which are one tensor `name` on the hub; `make` returns None where they do not fit."""

    parts: tuple[str, ...]
    name: str
    make: Callable[..., Tensor | None]


def _interleaved(name: str, gate: Tensor, up: Tensor) -> Tensor | None:
    """gpt-oss: gate and up take turns along the last axis, and matrices are [in, out]."""
    if gate.shape != up.shape or len(gate.shape) not in (2, 3) or gate.dtype != up.dtype or not gate.size:
        return None
    experts, outputs, inputs = (*gate.shape, 1)[:3]
    placed = [
        Placed(range(e * inputs, (e + 1) * inputs), range(half, 2 * outputs, 2), part, e * outputs * inputs, 1, inputs)
        for e in range(experts)
        for half, part in enumerate((gate, up))
    ]
    shape = (experts, inputs, 2 * outputs) if len(gate.shape) == 3 else (experts, 2 * outputs)
    return RearrangedTensor(name, shape, gate.dtype, 2 * outputs, tuple(placed), own=True)


def _each_turned(name: str, stack: Tensor) -> Tensor | None:
    """gpt-oss: every matrix of a stack transposed."""
    if len(stack.shape) != 3 or not stack.size:
        return None
    experts, outputs, inputs = stack.shape
    placed = [
        Placed(range(e * inputs, (e + 1) * inputs), range(outputs), stack, e * outputs * inputs, 1, inputs)
        for e in range(experts)
    ]
    return RearrangedTensor(name, (experts, inputs, outputs), stack.dtype, outputs, tuple(placed), own=True)


def _same(name: str, tensor: Tensor) -> Tensor:
    return replace(tensor, name=name)


def _stacked(name: str, gate: Tensor, up: Tensor) -> Tensor | None:
    """Granite: for every expert the rows of gate, then those of up."""
    if gate.shape != up.shape or len(gate.shape) != 3 or gate.dtype != up.dtype or not gate.size:
        return None
    experts, rows, cols = gate.shape
    placed = [
        Placed(range((2 * e + half) * rows, (2 * e + half + 1) * rows), range(cols), part, e * rows * cols, cols, 1)
        for e in range(experts)
        for half, part in enumerate((gate, up))
    ]
    return RearrangedTensor(name, (experts, 2 * rows, cols), gate.dtype, cols, tuple(placed), own=True)


def _keys_and_values(name: str, keys: Tensor, values: Tensor) -> Tensor | None:
    """DeepSeek: for every head the rows of keys, which GGUF has transposed, then those of values."""
    if len(keys.shape) != 3 or len(values.shape) != 3 or keys.dtype != values.dtype or not keys.size or not values.size:
        return None
    heads, rank, key = keys.shape
    value = values.shape[1]
    if values.shape != (heads, value, rank):
        return None
    placed = []
    for h in range(heads):
        at = h * (key + value)
        placed.append(Placed(range(at, at + key), range(rank), keys, h * rank * key, 1, key))
        placed.append(Placed(range(at + key, at + key + value), range(rank), values, h * value * rank, rank, 1))
    return RearrangedTensor(name, (heads * (key + value), rank), keys.dtype, rank, tuple(placed), own=True)


_EXPS = ("ffn_gate_exps", "ffn_up_exps")
JOINS = {
    "gpt_oss": (
        Join(tuple(f"{part}.weight" for part in _EXPS), "mlp.experts.gate_up_proj", _interleaved),
        Join(tuple(f"{part}.bias" for part in _EXPS), "mlp.experts.gate_up_proj_bias", _interleaved),
        Join(("ffn_down_exps.weight",), "mlp.experts.down_proj", _each_turned),
        Join(("ffn_down_exps.bias",), "mlp.experts.down_proj_bias", _same),
    ),
    "granitemoe": (
        Join(tuple(f"{part}.weight" for part in _EXPS), "block_sparse_moe.input_linear.weight", _stacked),
        Join(("ffn_down_exps.weight",), "block_sparse_moe.output_linear.weight", _same),
    ),
    "deepseek_v2": (Join(("attn_k_b.weight", "attn_v_b.weight"), "self_attn.kv_b_proj.weight", _keys_and_values),),
}
"""What is joined, by config.json's model_type."""
