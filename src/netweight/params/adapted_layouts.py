"""Adapters that were trained on another layout of the model than the base's files have: on experts one by one where the
base has stacks, on stacks where it has single experts, on q, k and v where it has them fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netweight.checkpoint.adapters.adapter import Module
from netweight.checkpoint.adapters.experts import rows_of, stacked
from netweight.checkpoint.adapters.kinds import changed
from netweight.checkpoint.matrix import whole
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.adapted import AdaptedTensor
from netweight.checkpoint.tensors.computed import as_float
from netweight.checkpoint.tensors.updates import ProductTensor
from netweight.dtypes import DTYPES, Kind
from netweight.params.layouts.parts import assembled
from netweight.params.layouts.renames import canonical_names
from netweight.params.model import Model

__all__ = ["on_other_layouts"]


def on_other_layouts(modules: Sequence[Module], model: Model) -> tuple[dict[str, Tensor], list[Module]]:
    """(what tensors of the base become, by name; the modules that are not in it in any layout).

    Raises FormatError where shapes do not fit.
    """
    made: dict[str, Tensor] = {}
    absent: list[Module] = []
    inside: dict[str, dict[str, Module]] = {}
    for module in modules:
        own = canonical_names([f"{module.name}.weight"])[f"{module.name}.weight"]
        if own in model.held and model.held[own].name not in made:
            inside.setdefault(model.held[own].name, {})[own] = module
        elif found := _single_experts(module, model):
            made |= found
        else:
            absent.append(module)
    for name, changes in inside.items():
        made[name] = _put_together(name, changes, model)
    return made, absent


def _put_together(name: str, changes: Mapping[str, Module], model: Model) -> Tensor:
    """A fused tensor or a stack, some of whose matrices have an adapter."""
    tensor = model.tensors[name]
    pieces = []
    for named in model.named_parts(name):
        matrix, _ = model[named.name]
        if (module := changes.get(named.name)) is not None:
            matrix = changed(module, matrix, None)["weight"]
        pieces.append((named.part, as_float(matrix), whole(matrix.shape)))
    return assembled(name, tensor.shape, pieces)


def _single_experts(module: Module, model: Model) -> dict[str, Tensor]:
    """The experts of a base that has them one by one, with what a module for their stack adds; nothing where its
    factors are not theirs.
    """
    name = module.name
    while name.endswith(".base_layer"):
        name = name.removesuffix(".base_layer")
    place = canonical_names([f"{name}.gate_up_proj"])[f"{name}.gate_up_proj"].removesuffix(".gate_up_proj")
    down, up = module.parts.get("lora_A"), module.parts.get("lora_B")
    experts = [n for n in range(1 << 12) if f"{place}.{n}.down_proj.weight" in model.held]
    if down is None or up is None or not experts or experts != list(range(len(experts))):
        return {}
    hidden, inner = model[f"{place}.0.down_proj.weight"][0].shape
    shape = (up.shape[0], down.shape[1])
    if shape == (2 * inner, hidden):
        halves = {"gate_proj": range(inner), "up_proj": range(inner, 2 * inner)}
    elif shape == (hidden, inner):
        halves = {"down_proj": range(hidden)}
    else:
        return {}
    made: dict[str, Tensor] = {}
    updates = stacked(module, (len(experts), *shape), transposed=False).each
    for expert, update in zip(experts, updates, strict=True):
        for slot, rows in halves.items():
            held = model.held.get(f"{place}.{expert}.{slot}.weight")
            if held is None or not isinstance(update, ProductTensor):
                raise module.wrong(f"expert {expert} has no {slot} in the base")
            weight = model.tensors[held.name]
            if held.part != whole(weight.shape) or weight.dtype.kind is not Kind.FLOAT:
                return {}
            part = rows_of(update, rows)
            made[held.name] = AdaptedTensor(weight.name, weight.shape, DTYPES["F32"], weight, part)
    return made
