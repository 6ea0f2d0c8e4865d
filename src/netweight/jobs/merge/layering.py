"""Edits what a config says of each layer, where layers come from several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netweight.errors import InputError, printable
from netweight.jobs.merge.layer_forms import FORMS, Form

__all__ = ["Layering", "edit_layers", "kinds_of"]

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_FURTHER = "num_nextn_predict_layers"
_SHOWN = 12

Place = tuple[Mapping[str, Any] | None, int, int]


@dataclass(frozen=True)
class Layering:
    """Where the output's layers come from: for each the config of its model, how many layers that has, and the number
    of the layer there. `before`: how many layers the config that is edited counts. `further`: how many blocks behind
    those predict further tokens, None where the model that the output is named after stores none.
    """

    before: int
    layers: Sequence[Place]
    further: int | None = None
    stack: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The entries of a config that count these layers: BART's decoder alone also has entries of its own."""
        side = next((word for word in self.stack.split(".") if word in {"encoder", "decoder"}), None)
        return _LAYERS if side is None else (*_LAYERS, f"{side}_layers", f"num_{side}_layers")


def edit_layers(config: dict[str, Any], layering: Layering, where: str) -> list[str]:
    """Edit what the top and the `text_config` of a config say of layers; returns notes on what must be checked.

    Raises InputError, naming `where`, for an entry that cannot say which layers are of which kind now, where a wrong
    one would make a model that loads with tensors missing.
    """
    text = config.get("text_config")
    levels = [config, *([text] if isinstance(text, dict) else [])]
    count = len(layering.layers)
    notes = []
    if not any(isinstance(level.get(key), int) for level in levels for key in layering.keys):
        notes.append(f"config.json does not say how many layers there are; the merged model has {count}")
    for level in levels:
        notes += _edit_level(level, layering, where, nested=level is text)
    return notes


def kinds_of(config: Mapping[str, Any] | None, layers: int) -> list[tuple[Any, ...]]:
    """What a config says, of each of so many layers, that decides which tensors it has."""
    levels = [_level_of(config, nested=nested) for nested in (False, True)]
    said = [form.read(level, layers) for level in levels for form in FORMS if form.tensors]
    return [tuple(map(str, kinds)) for kinds in zip(*([0] * layers, *filter(None, said)), strict=True)]


def _edit_level(level: dict[str, Any], layering: Layering, where: str, *, nested: bool) -> list[str]:
    """Edit what one level of a config says of layers."""
    notes: list[str] = []
    own = dict(level)
    for key in layering.keys:
        if isinstance(level.get(key), int):
            level[key] = len(layering.layers)
    if layering.further is not None and isinstance(level.get(_FURTHER), int):
        level[_FURTHER] = layering.further
    said = [(form, values) for form in FORMS if (values := form.read(own, layering.before)) is not None]
    for form, values in said:
        notes += _edit_form(form, values, level, layering, where, nested=nested)
    known = {key for form, _ in said for key in form.keys}
    for key, value in own.items():
        if key in known or not isinstance(value, list) or len(value) != layering.before or _about_tokens(key):
            continue
        entries = _entries_of(layering, key, value, nested=nested)
        if all(number < len(listed) for listed, number in entries):
            level[key] = [listed[number] for listed, number in entries]
        else:
            del level[key]
            notes.append(f"config.json: {printable(key)} lacks entries for some layers and is left out: check it")
    return notes


def _entries_of(layering: Layering, key: str, own: list[Any], *, nested: bool) -> list[tuple[list[Any], int]]:
    """For every layer: the list that its model's config has under `key`, else the list `own`; its number there."""
    entries = []
    for config, length, number in layering.layers:
        listed = _level_of(config, nested=nested).get(key)
        entries.append((listed if isinstance(listed, list) and len(listed) == length else own, number))
    return entries


def _edit_form(
    form: Form, said: list[Any], level: dict[str, Any], layering: Layering, where: str, *, nested: bool
) -> list[str]:
    """Make `level` say of the output's layers what the configs of their models say of them, in one form; `said`: what
    it has said so far, for layers of models whose config does not say it.
    """
    values: list[Any] = []
    for config, length, number in layering.layers:
        of_model = form.read(_level_of(config, nested=nested), length) or said
        values.append(of_model[number] if number < len(of_model) else "?")
    if form.read(level, len(values)) == values:
        return []
    trial = dict(level)
    if "?" not in values and form.write(trial, values):
        level |= trial
        return []
    key = next(key for key in form.keys if key in level)
    shown = ", ".join(printable(str(value), 20) for value in values[:_SHOWN]) + (", ..." if values[_SHOWN:] else "")
    what = f"config.json: {printable(key)} = {printable(str(level[key]), 60)} cannot say of the merged layers"
    if form.tensors:
        raise InputError(
            f"{where}: {what} that they are [{shown}], so the model would load with tensors missing; take slices whose"
            " layers are in the order of kinds that the models have, or of models whose configs say it of every layer"
        )
    return [f"{what} that they are [{shown}]: check it"]


def _level_of(config: Mapping[str, Any] | None, *, nested: bool) -> Mapping[str, Any]:
    level = config.get("text_config") if nested and isinstance(config, Mapping) else config
    return level if isinstance(level, Mapping) else {}


def _about_tokens(key: str) -> bool:
    """Lists that are as long as there are layers by chance."""
    return key.endswith(("_id", "_ids")) or key in {"architectures", "pruned_heads", "id2label"}
