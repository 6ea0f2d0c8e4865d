"""Models that were saved with their LoRA adapter beside each weight, not merged: `q_proj.base_layer.weight` with
`q_proj.lora_A.default.weight` and `q_proj.lora_B.default.weight` is the weight `q_proj.weight` with the adapter in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from netweight.checkpoint.adapters.settings import ADAPTER_CONFIG, LoraSettings, lora_settings
from netweight.checkpoint.config import MAX_CONFIG, read_json_in
from netweight.checkpoint.decoders.decoded import replaced
from netweight.checkpoint.decoders.found import Found, several, shown, stored_twice, wrong
from netweight.checkpoint.place import Place
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.adapted import AdaptedTensor
from netweight.checkpoint.tensors.rearranged import turned
from netweight.dtypes import DTYPES, Kind
from netweight.errors import FormatError, printable

__all__ = ["with_adapters"]

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>(?:lora|ia3|vera|hada|lokr|oft|boft|hra|fourierft|vblora|c3a|randlora|shira|miss|bone|road"
    r"|trainable_tokens)_[A-Za-z0-9_]+)(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<field>weight|bias))?"
)
_SAVED = re.compile(r"(?P<module>.+?)\.(?P<part>modules_to_save)\.(?P<adapter>[^.]+)\.(?P<field>.+)")
_LAYER = ".base_layer."


class _Part(NamedTuple):
    module: str
    part: str
    adapter: str
    field: str


def with_adapters(
    tensors: Mapping[str, Tensor], place: Place, where: str
) -> tuple[Mapping[str, Tensor], tuple[str, ...], dict[str, Any]]:
    """(`tensors` with what such parts mean, notes, {"adapter_config": what the file says}). Untouched where no weight
    has an adapter beside it: adapters alone are no model.

    `where` names the model. Raises FormatError where parts do not fit or are missing, where there are several adapters,
    where nothing says by what the product is multiplied, and for kinds that are not read.
    """
    if not any(_LAYER in name for name in tensors):
        return tensors, (), {}
    matches = ((name, _SAVED.fullmatch(name) or _PART.fullmatch(name)) for name in tensors)
    parts = {name: _Part(*(text or "" for text in found.groups())) for name, found in matches if found}
    if not parts:
        return tensors, (), {}
    adapters = sorted({part.adapter for part in parts.values()})
    if len(adapters) > 1:
        names = ", ".join(repr(printable(name, 60)) for name in adapters[:4])
        raise FormatError(f"{where}: holds several adapters that are not merged ({names}); merge what counts in PEFT")
    modules: dict[str, dict[str, Tensor]] = {}
    for name, part in parts.items():
        if part.part != "modules_to_save":
            modules.setdefault(part.module, {})[f"{part.part}.{part.field}".rstrip(".")] = tensors[name]
    about = _about(place, len(modules), where)
    settings = lora_settings(about, printable(place.path(ADAPTER_CONFIG)))
    instead: dict[str, Tensor] = {}
    for module, held in modules.items():
        weight = tensors.get(f"{module}{_LAYER}weight")
        if weight is None:
            name = min(tensor.name for tensor in held.values())
            raise wrong(where, name, "belongs to an adapter, and its weight is not there; merge it in PEFT")
        stored_twice(f"{module}.weight", tensors, where, "PEFT")
        instead[weight.name] = _adapted(module, weight, held, settings, where)
        if (bias := tensors.get(f"{module}{_LAYER}bias")) is not None:
            instead[bias.name] = replace(bias, name=f"{module}.bias")
    used = frozenset(name for name, part in parts.items() if part.part != "modules_to_save")
    made = replaced(tensors, [Found(instead, used), _saved(tensors, parts, where)], where)
    note = (
        f"{where}: {several(len(modules), 'weight has', 'weights have')} a LoRA adapter that is not merged: read with"
        f" it, as {ADAPTER_CONFIG} says"
    )
    return made, (note,), {"adapter_config": about}


def _about(place: Place, modules: int, where: str) -> dict[str, Any]:
    if not place.has(ADAPTER_CONFIG):
        raise FormatError(
            f"{where}: {several(modules, 'weight has', 'weights have')} a LoRA adapter that is not merged, and"
            f" nothing says by what it is multiplied (lora_alpha): put its {ADAPTER_CONFIG} there, or merge it in PEFT"
        )
    return read_json_in(place, ADAPTER_CONFIG, MAX_CONFIG)


def _adapted(
    module: str, weight: Tensor, held: Mapping[str, Tensor], settings: LoraSettings, where: str
) -> AdaptedTensor:
    """One module's weight with its adapter; `held`: the parts by name."""
    names = ("lora_A.weight", "lora_B.weight") if "lora_A.weight" in held or "lora_B.weight" in held else (
        "lora_embedding_A", "lora_embedding_B",
    )  # fmt: skip
    others = sorted(set(held) - set(names))
    if others:
        kind = "DoRA" if others[0].startswith("lora_magnitude_vector") else others[0].partition(".")[0]
        raise wrong(where, f"{module}.{others[0]}", f"{kind} is not read beside a weight; merge it in PEFT")
    down, up = (held.get(name) for name in names)
    if down is None or up is None:
        missing = names[0] if down is None else names[1]
        raise wrong(
            where, f"{module}{_LAYER}weight", f"has half an adapter: {missing} is missing; the file is not complete"
        )
    fits = len(down.shape) == len(up.shape) == len(weight.shape) == 2 and down.shape[0] == up.shape[1] > 0
    flipped = settings.fan_in_fan_out if names[0] == "lora_A.weight" else True
    shape = (down.shape[1], up.shape[0]) if flipped else (up.shape[0], down.shape[1])
    if not fits or (fits and weight.shape != shape):
        raise wrong(
            where,
            f"{module}{_LAYER}weight",
            f"{shown(weight)}, {names[0]} {shown(down)} and {names[1]} {shown(up)} do not fit: expected [out, in],"
            " [r, in] and [out, r]",
        )
    for tensor in (weight, down, up):
        if tensor.dtype.kind is not Kind.FLOAT or not 16 <= tensor.dtype.bits <= 32:
            raise wrong(where, tensor.name, f"{tensor.dtype}, expected floats of 16 or 32 bits beside an adapter")
    left, right = (turned(down), turned(up)) if flipped else (up, down)
    rank = down.shape[0]
    scale = settings.scale_of(re.sub(r"^(?:base_model\.model\.)+", "", module), rank)
    return AdaptedTensor(f"{module}.weight", weight.shape, DTYPES["F32"], weight, left, right, scale, f"LoRA r{rank}")


def _saved(tensors: Mapping[str, Tensor], parts: Mapping[str, _Part], where: str) -> Found:
    """Modules that were trained whole: they count, and their originals do not."""
    instead: dict[str, Tensor] = {}
    originals: set[str] = set()
    for name, part in parts.items():
        if part.part != "modules_to_save":
            continue
        stored_twice(f"{part.module}.{part.field}", tensors, where, "PEFT")
        original = f"{part.module}.original_module.{part.field}"
        if original not in tensors:
            raise wrong(where, name, f"was trained whole, and its original, {printable(original)!r}, is not there")
        instead[name] = replace(tensors[name], name=f"{part.module}.{part.field}")
        originals.add(original)
    return Found(instead, frozenset(originals | instead.keys()))
