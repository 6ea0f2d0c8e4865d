"""Adapters that lie in files of their own: PEFT's folders, and the files of kohya, LyCORIS, diffusers and MLX."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from netweight.checkpoint.adapters.adapter import Adapter, modules_of
from netweight.checkpoint.adapters.names import ADAPTER_FILES, PREFIX, Part, maybe_parts, part_of, saved_part
from netweight.checkpoint.adapters.settings import ADAPTER_CONFIG, Settings, settings_of
from netweight.checkpoint.config import MAX_CONFIG, read_json_in
from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.errors import FormatError, printable

__all__ = ["adapter_in"]

_JOINED = re.compile(r"lora_(?:unet|te[0-9]?|transformer|prior_unet|prior_te)_.+")
_LARGEST = 1e300
_DIFFUSERS = "lora_adapter_metadata"  # of diffusers' own files: settings by component
_OF_COMPONENT = re.compile(r"(?P<component>[a-z0-9_]+)\.(?P<key>lora_alpha|alpha_pattern|use_dora|use_rslora)")


def adapter_in(checkpoint: Checkpoint) -> Adapter | None:
    """The adapter that a checkpoint is; None where it is a model, with an adapter beside its weights too.

    Raises FormatError where nothing says by what it is multiplied, for what adapter_config.json must not say, and for
    kinds that are not read, by their name. Of tensors only an alpha is read.
    """
    names = list(checkpoint)
    where = printable(checkpoint.ref)
    named = all(_file_name(file.path).startswith(ADAPTER_FILES) for file in checkpoint.files) and bool(checkpoint.files)
    about = _about(checkpoint) if named else None
    if not maybe_parts(names) and about is None:
        return None
    parts = {name: part for name in names if (part := part_of(name)) is not None}
    modules = {part.module for part in parts.values()}
    if about is None and (not parts or all(_has_weight(module, checkpoint) for module in modules)):
        return None
    about = about if about is not None else _about(checkpoint)
    if checkpoint.format == "gguf":
        settings, architecture = _of_gguf(checkpoint.metadata, where)
        return Adapter(where, settings, modules_of(checkpoint, parts, settings, where), architecture=architecture)
    joined = bool(parts) and all(_JOINED.fullmatch(part.module) for part in parts.values())
    settings, notes = _settings(checkpoint, about, parts, where, joined=joined)
    adapters = sorted({part.adapter for part in parts.values() if part.adapter})
    if len(adapters) > 1:
        listed = ", ".join(repr(printable(name, 60)) for name in adapters[:4])
        raise FormatError(f"{where}: holds several adapters ({listed}); save one, or merge them in PEFT")
    saved = {_own_name(name): checkpoint[name] for name in names if name not in parts}
    named_modules = modules_of(checkpoint, parts, settings, where, PREFIX).values()
    return Adapter(where, settings, {module.name: module for module in named_modules}, saved, joined, notes=notes)


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _has_weight(module: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the module's weight lies beside its adapter."""
    return any(f"{module}.{at}weight" in tensors for at in ("", "base_layer."))


def _about(checkpoint: Checkpoint) -> dict[str, Any] | None:
    place = checkpoint.place
    return read_json_in(place, ADAPTER_CONFIG, MAX_CONFIG) if place is not None and place.has(ADAPTER_CONFIG) else None


def _settings(
    checkpoint: Checkpoint, about: Mapping[str, Any] | None, parts: Mapping[str, Part], where: str, *, joined: bool
) -> tuple[Settings, tuple[str, ...]]:
    """What files say, and a note where nothing says by what the products are multiplied."""
    if about is not None and not joined:
        place = checkpoint.place
        return settings_of(about, printable(place.path(ADAPTER_CONFIG)) if place else where), ()
    if _DIFFUSERS in checkpoint.metadata:
        return _of_diffusers(checkpoint.metadata[_DIFFUSERS], where), ()
    kinds = {"hada": "LoHa", "lokr": "LoKr", "ia3": "IA3", "vera": "VeRA"}
    words = {part.part.partition("_")[0] for part in parts.values()}
    kind = next((name for word, name in kinds.items() if word in words), "LoRA")
    if kind in {"IA3", "VeRA"} or joined or any(part.part == "alpha" for part in parts.values()):
        return Settings(kind), ()
    if any(name.startswith(PREFIX) for name in parts):
        raise FormatError(
            f"{where}: nothing says by what the adapter is multiplied (lora_alpha): put its {ADAPTER_CONFIG} beside it"
        )
    return Settings(kind), (f"nothing says the adapter's alpha: counted as its rank, so that {kind} is added as it is",)


def _of_gguf(metadata: Mapping[str, str], where: str) -> tuple[Settings, str]:
    """The settings in a GGUF file, and its architecture. An alpha of 0 counts as the rank, as in llama.cpp."""
    kind = metadata.get("adapter.type", "")
    if kind != "lora":
        raise FormatError(f"{where}: adapter.type: an adapter of kind {printable(kind or 'none', 40)}, expected lora")
    try:
        alpha = float(metadata.get("adapter.lora.alpha", "0"))
    except ValueError:
        alpha = float("nan")
    if not abs(alpha) < _LARGEST:
        raise FormatError(f"{where}: adapter.lora.alpha: expected a number")
    return Settings("LoRA", alpha=alpha or None), metadata.get("general.architecture", "")


def _of_diffusers(text: str, where: str) -> Settings:
    """The settings that diffusers writes into its file, where its components agree on them."""
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict):
        raise FormatError(f"{where}: {_DIFFUSERS}: is not a JSON object")
    by_component: dict[str, dict[str, Any]] = {}
    for key, value in held.items():
        if found := _OF_COMPONENT.fullmatch(key):
            by_component.setdefault(found["component"], {})[found["key"]] = value
    every = list(by_component.values()) or [{}]
    if any(settings != every[0] for settings in every):
        raise FormatError(f"{where}: {_DIFFUSERS}: components have other settings; save each component's alone")
    return settings_of({"peft_type": "LORA", **every[0]}, f"{where}: {_DIFFUSERS}")


def _own_name(name: str) -> str:
    """A tensor's name in the base."""
    name = name.removeprefix(PREFIX)
    if whole := saved_part(name):
        module, _, field = whole
        return f"{module}.{field}"
    return name.replace(".base_layer.", ".")
