"""Models that were saved with their adapter beside each weight, not merged: `q_proj.base_layer.weight` with
`q_proj.lora_A.default.weight` and `q_proj.lora_B.default.weight` is the weight `q_proj.weight` with the adapter in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netweight.checkpoint.adapters.adapter import modules_of
from netweight.checkpoint.adapters.kinds import changed
from netweight.checkpoint.adapters.names import Part, maybe_parts, part_of, saved_part
from netweight.checkpoint.adapters.settings import ADAPTER_CONFIG, settings_of
from netweight.checkpoint.config import MAX_CONFIG, read_json_in
from netweight.checkpoint.decoders.decoded import replaced
from netweight.checkpoint.decoders.found import Found, several, stored_twice, wrong
from netweight.checkpoint.place import Place
from netweight.checkpoint.tensor import Tensor
from netweight.errors import FormatError, printable

__all__ = ["with_adapters"]

_LAYER = ".base_layer."
_WRAPPED = re.compile(r"^(?:base_model\.model\.)+")


def with_adapters(
    tensors: Mapping[str, Tensor], place: Place, where: str
) -> tuple[Mapping[str, Tensor], tuple[str, ...], dict[str, Any]]:
    """(`tensors` with what such parts mean, notes, {"adapter_config": what the file says}). Untouched where no weight
    has an adapter beside it (adapters alone are no model), and where there are several, which a note says.

    `where` names the model. Raises FormatError where parts do not fit or are missing, where nothing says by what the
    product is multiplied, and for kinds that are not read.
    """
    if not maybe_parts(tensors):
        return tensors, (), {}
    parts = {name: part for name in tensors if (part := part_of(name)) is not None}
    saved = {name: whole for name in tensors if (whole := saved_part(name)) is not None}
    layers = {module: layer for module in _modules(parts, saved) if (layer := _layer(module, tensors))}
    if not layers or not parts:
        return tensors, (), {}
    adapters = sorted({part.adapter for part in parts.values()} | {adapter for _, adapter, _ in saved.values()})
    if len(adapters) > 1:
        names = ", ".join(repr(printable(name, 60)) for name in adapters[:4])
        note = f"{where}: holds several adapters that are not merged ({names}): all tensors are read as they are stored"
        return tensors, (note,), {}
    about = _about(place, len({part.module for part in parts.values()}), where)
    settings = settings_of(about, printable(place.path(ADAPTER_CONFIG)))
    modules = modules_of(tensors, parts, settings, where)
    instead: dict[str, Tensor] = {}
    for name, module in modules.items():
        weight, bias = (tensors.get(f"{layers.get(name, '')}{field}") for field in ("weight", "bias"))
        if weight is None:
            first = min(tensor.name for tensor in module.parts.values())
            raise wrong(where, first, "belongs to an adapter, and its weight is not there; merge it in PEFT")
        if layers[name].endswith(_LAYER):
            stored_twice(f"{name}.weight", tensors, where, "PEFT")
        became = changed(replace(module, name=_WRAPPED.sub("", name)), weight, bias)
        for field, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None:
                instead[tensor.name] = replace(became.get(field, tensor), name=f"{name}.{field}")
    made = replaced(tensors, [Found(instead, frozenset(parts)), _saved(tensors, saved, where)], where)
    note = (
        f"{where}: {several(len(modules), 'weight has', 'weights have')} a {settings.kind} adapter that is not merged:"
        f" read with it, as {ADAPTER_CONFIG} says"
    )
    return made, (note,), {"adapter_config": about}


def _modules(parts: Mapping[str, Part], saved: Mapping[str, tuple[str, str, str]]) -> set[str]:
    return {part.module for part in parts.values()} | {module for module, _, _ in saved.values()}


def _layer(module: str, tensors: Mapping[str, Tensor]) -> str:
    """What stands before the weight's and the bias' own name; empty where the weight is not there. PEFT before 0.6 had
    it beside the adapter under its own name.
    """
    return next((f"{module}{at}" for at in (_LAYER, ".") if f"{module}{at}weight" in tensors), "")


def _about(place: Place, modules: int, where: str) -> dict[str, Any]:
    if not place.has(ADAPTER_CONFIG):
        raise FormatError(
            f"{where}: {several(modules, 'weight has', 'weights have')} a LoRA adapter that is not merged, and"
            f" nothing says by what it is multiplied (lora_alpha): put its {ADAPTER_CONFIG} there, or merge it in PEFT"
        )
    return read_json_in(place, ADAPTER_CONFIG, MAX_CONFIG)


def _saved(tensors: Mapping[str, Tensor], saved: Mapping[str, tuple[str, str, str]], where: str) -> Found:
    """Modules that were trained whole: they count, and their originals do not."""
    instead: dict[str, Tensor] = {}
    originals: set[str] = set()
    for name, (module, _, field) in saved.items():
        stored_twice(f"{module}.{field}", tensors, where, "PEFT")
        original = f"{module}.original_module.{field}"
        if original not in tensors:
            raise wrong(where, name, f"was trained whole, and its original, {printable(original)!r}, is not there")
        instead[name] = replace(tensors[name], name=f"{module}.{field}")
        originals.add(original)
    return Found(instead, frozenset(originals | instead.keys()))
