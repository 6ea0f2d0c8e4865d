"""The hidden units of a model: which matrices have a row or a column for each of them.

Units of one block are alike when training begins, and training treats them alike: in another order they make the same
model. What tests of independence permute are these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from netweight.params.role import Parameter

__all__ = ["Units", "keys_of", "units_of"]

_ROWS = ("gate_proj", "up_proj")
_COLS = ("down_proj", "lora_B")
_LEAST = 8  # units below which a test says little
_LEAST_RANK = 4  # of an adapter, which has many modules
_NO_UNITS = frozenset(
    {"embedding", "output", "norm", "bias", "q_proj", "k_proj", "v_proj", "o_proj", "qkv", "moe_gate"}
)


@dataclass(frozen=True)
class Units:
    """Units with one order: `rows` are the keys of matrices with a row for each by part, `cols` those with a column.

    `label` tells blocks of one model apart; `layer` and `expert` are None outside of lists.
    """

    label: str
    stack: str
    layer: int | None
    expert: int | None
    count: int
    rows: Mapping[str, str]
    cols: Mapping[str, str]


def keys_of(parameters: Mapping[str, Parameter]) -> dict[str, str]:
    """{name: a key that says what the tensor is, whoever named it}: "3.q_proj", "token_embedding"; the name where that
    is not known, or not of one tensor alone.
    """
    said = {name: _key(parameter) for name, parameter in parameters.items()}
    counts = Counter(said.values())
    return {name: key if key and counts[key] == 1 and key not in parameters else name for name, key in said.items()}


def _key(parameter: Parameter) -> str:
    if parameter.kind != "weight" or parameter.slot in ("", "norm", "conv", "head"):
        return ""
    parts = [parameter.stack] if parameter.stack else []
    parts += [str(parameter.layer)] if parameter.layer is not None else []
    parts += [f"expert_{parameter.expert}"] if parameter.expert is not None else []
    shared = "shared_expert." if "shared_expert" in parameter.name else ""
    return ".".join([*parts, shared + parameter.slot])


def units_of(
    keys: Mapping[str, str], parameters: Mapping[str, Parameter], shapes: Mapping[str, tuple[int, ...]]
) -> list[Units]:
    """The blocks of hidden units, of names with their keys: MLPs and experts.

    A model without any (a convolutional net, a controller) gives the rows of its other matrices, those of one number
    of rows as one block, without the last matrix, whose rows are outputs; rows of one number in one order throughout
    are treated alike whether or not they share it.
    """
    found: dict[str, dict[str, str]] = {}
    for name, parameter in parameters.items():
        if len(shapes[name]) == 2 and (slot := _slot(name, parameter)):
            found.setdefault(name.partition(".lora_")[0] if "lora" in slot else _above(name), {})[slot] = name
    blocks = []
    for held in found.values():
        cols = {slot: name for slot, name in held.items() if slot in _COLS}
        counts = {shapes[name][1 if slot in cols else 0] for slot, name in held.items()}
        first = next(iter(held.values()))
        parameter = parameters[first]
        least = _LEAST_RANK if parameter.kind == "adapter" else _LEAST
        if len(counts) == 1 and (count := counts.pop()) >= least:
            place = (parameter.stack, parameter.layer, parameter.expert)
            rows = {slot: keys[name] for slot, name in held.items() if slot not in cols}
            blocks.append(Units("", *place, count, rows, {slot: keys[name] for slot, name in cols.items()}))
    if not blocks:
        return _plain(keys, parameters, shapes)
    return [replace(block, label=_label(block)) for block in blocks]


def _slot(name: str, parameter: Parameter) -> str:
    """The part of a block of units that a matrix is, "" where it is none."""
    if parameter.kind == "adapter":
        return next((f"lora_{end}" for end in "AB" if f".lora_{end}." in f".{name}."), "")
    return parameter.slot if parameter.kind == "weight" and parameter.slot in (*_ROWS, *_COLS) else ""


def _above(name: str) -> str:
    """The module that holds a tensor's module: `layers.0.mlp` of `layers.0.mlp.up_proj.weight`."""
    return name.rpartition(".")[0].rpartition(".")[0]


def _label(block: Units) -> str:
    """What tells blocks of a model apart, whoever named the tensors: their first matrix's key without its part."""
    slot, key = next(iter((block.rows or block.cols).items()))
    known = key.removesuffix(slot).rstrip(".")
    return known if known != key else key.partition(".lora_")[0] if "lora" in slot else _above(key)


def _plain(
    keys: Mapping[str, str], parameters: Mapping[str, Parameter], shapes: Mapping[str, tuple[int, ...]]
) -> list[Units]:
    matrices = [
        name
        for name, parameter in parameters.items()
        if len(shapes[name]) >= 2 and parameter.kind == "weight" and parameter.role not in _NO_UNITS
    ]
    grouped: dict[int, dict[str, str]] = {}
    for name in matrices[:-1]:
        rows, cols = shapes[name][0], prod(shapes[name][1:])
        if rows >= _LEAST and cols > 1 and parameters[name].role != "recurrent":
            grouped.setdefault(rows, {})[keys[name]] = keys[name]
    return [Units(f"rows of {count}", "", None, None, count, rows, {}) for count, rows in grouped.items()]
