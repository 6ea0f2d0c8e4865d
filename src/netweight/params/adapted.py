"""A model with an adapter in it: the adapter's modules found among the base's tensors, whoever has named them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from netweight.checkpoint.adapters.adapter import Adapter, Module
from netweight.checkpoint.adapters.experts import fits
from netweight.checkpoint.adapters.gguf import on_hub
from netweight.checkpoint.adapters.kinds import changed
from netweight.checkpoint.decoders.found import several
from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.errors import InputError, printable
from netweight.params.adapted_layouts import on_other_layouts
from netweight.params.layouts.renames import canonical_names
from netweight.params.model import Model
from netweight.params.role import classify
from netweight.params.selection import examples
from netweight.params.tied import HEAD, find_ties

__all__ = ["with_adapter"]

_DEPTH = 4  # segments that may stand before a name on one side alone
_COMPONENT = re.compile(
    r"lora_(?:unet|te[0-9]?|transformer|prior_unet|prior_te)_|(?:unet|transformer|text_encoder(?:_[0-9])?|prior)\."
)
_TRANSPOSED = frozenset({"gpt_oss", "llama4", "llama4_text"})
"""Model types whose stacks of experts are [experts, in, out]."""
_MOST = 8192  # tensors of a module without a weight of its own that are tried


def with_adapter(base: Checkpoint, adapter: Adapter, source: Checkpoint, ref: str) -> Checkpoint:
    """The model `ref`: `base` with the adapter that `source` holds. Both stay open; closing it closes both.

    Raises InputError where the base has not what the adapter changes, FormatError where shapes do not fit.
    """
    adapter = on_hub(adapter, base.config)
    named = _Names(base, joined=adapter.joined)
    tensors = dict(base.items())
    config = base.config
    embedding = find_ties(base).absent
    notes: list[str] = []
    added = 0
    for name, tensor in adapter.saved.items():
        own = named.tensor(name) or name
        added += own not in tensors
        if own in tensors and tensors[own].shape != tensor.shape:
            config = _resized(config, own, tensor, tensors[own])
            shapes = f"{list(tensors[own].shape)}, now {list(tensor.shape)}"
            notes.append(f"'{printable(own)}' was trained whole and has another shape: {shapes}")
        if own == HEAD and own not in tensors and embedding:
            config = _untied(config)
        alone = own == embedding and name.removesuffix(".weight") not in adapter.modules
        if alone and HEAD not in adapter.saved and tensors[own].shape == tensor.shape:
            config = _untied(config)
            tensors[HEAD] = replace(tensors[own], name=HEAD)
            notes.append(f"'{printable(own)}' was trained whole, its tied head was not: the head is that of the base")
        tensors[own] = replace(tensor, name=own)
    elsewhere: dict[str, Tensor] = {}
    found, absent = _located(adapter.modules.values(), named, embedding)
    for module, own in found:
        weight, bias = _held(module, own, tensors, embedding)
        if own == HEAD.removesuffix(".weight") and HEAD not in tensors:
            config = _untied(config)
        transposed = None if config is None else config.get("model_type") in _TRANSPOSED
        for field, tensor in changed(module, weight, bias, transposed_experts=transposed).items():
            name = weight.name if field == "weight" else f"{own}.{field}"
            tensors[name] = replace(tensor, name=name)
    if absent:
        elsewhere, absent = on_other_layouts(absent, Model(base))
        tensors |= elsewhere
    if absent or not (found or adapter.saved or elsewhere):
        _refuse_or_note(absent, found, base, adapter, notes)
    for alias, name in base.shared.items():
        if tensors.get(name) is not base.get(name) and tensors.get(alias) is base.get(alias):
            tensors[alias] = replace(tensors[name], name=alias)
    if added:
        notes.append(f"{added} tensors of the adapter are not in the base: added, as they were trained whole")
    whole = f", {several(len(adapter.saved), 'tensor', 'tensors')} trained whole" if adapter.saved else ""
    modules = several(len(adapter.modules) - len(absent), "module", "modules")
    notes.insert(0, f"{adapter.where}: {adapter.settings.kind} on {modules}{whole}: weights are read with it")
    return _together(base, source, tensors, ref, adapter, config, notes)


def _together(
    base: Checkpoint,
    source: Checkpoint,
    tensors: Mapping[str, Tensor],
    ref: str,
    adapter: Adapter,
    config: dict[str, Any] | None,
    notes: Sequence[str],
) -> Checkpoint:
    where = printable(source.ref)
    return Checkpoint(
        ref,
        tensors,
        format=f"{base.format} + {adapter.settings.kind}",
        files=(*base.files, *source.files),
        config=config,
        config_problem=base.config_problem,
        config_lacks=base.config_lacks,
        stored={**base.stored, **source.stored},
        metadata=base.metadata,
        skipped=(*base.skipped, *source.skipped),
        notes=(*base.notes, *source.notes, *(f"{where}: {note}" for note in adapter.notes), *notes),
        shared=base.shared,
        sources=(*base.sources, *source.sources),
        revision=base.revision,
        location=base.location,
        place=base.place,
        outside=(*base.outside, *source.outside),
        settings={**base.settings, f"adapter {len(base.made_of)}": dict(adapter.settings.about)},
        made_of=(*(base.made_of or (base,)), source),
    )


def _located(
    modules: Iterable[Module], named: _Names, embedding: str | None
) -> tuple[list[tuple[Module, str]], list[Module]]:
    """(each module with what stands before its tensors' names in the base, those that the base has not)."""
    found: list[tuple[Module, str]] = []
    absent: list[Module] = []
    for module in modules:
        own = named.module(module)
        if own is None and embedding and f"{module.name}.weight" == HEAD:
            own = module.name  # the head that is the embedding
        (absent.append(module) if own is None else found.append((module, own)))
    return found, absent


def _held(
    module: Module, own: str, tensors: Mapping[str, Tensor], embedding: str | None
) -> tuple[Tensor, Tensor | None]:
    """The weight and bias that a module changes; a tied head's weight is the embedding's, under its own name."""
    weight = tensors.get(f"{own}.weight", tensors.get(own))
    if weight is None and embedding and f"{own}.weight" == HEAD:
        weight = replace(tensors[embedding], name=HEAD)
    if weight is None:
        raise module.wrong(f"{printable(own)} has no weight in the base")
    return weight, tensors.get(f"{own}.bias")


def _untied(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of a model whose head is no longer its embedding."""
    if config is None or config.get("tie_word_embeddings") is False:
        return config
    changed_config = deepcopy(config)
    for part in (changed_config, changed_config.get("text_config")):
        if isinstance(part, dict) and (part is changed_config or "tie_word_embeddings" in part):
            part["tie_word_embeddings"] = False
    return changed_config


def _resized(config: dict[str, Any] | None, name: str, now: Tensor, before: Tensor) -> dict[str, Any] | None:
    """Of a model whose vocabulary has grown."""
    if config is None or classify(name, now.shape).slot not in {"token_embedding", "lm_head"}:
        return config
    changed_config = deepcopy(config)
    for part in (changed_config, changed_config.get("text_config")):
        if isinstance(part, dict) and part.get("vocab_size") == before.shape[0]:
            part["vocab_size"] = now.shape[0]
    return changed_config


def _refuse_or_note(
    absent: Sequence[Module], found: Sequence[tuple[Module, str]], base: Checkpoint, adapter: Adapter, notes: list[str]
) -> None:
    """Files of diffusers and kohya have adapters for several components, of which the base may be one; else all that
    an adapter changes must be there.
    """
    others = {match[0] for module in absent if (match := _COMPONENT.match(module.name))}
    here = {match[0] for module, _ in found if (match := _COMPONENT.match(module.name))}
    if here and not here & others and all(_COMPONENT.match(module.name) for module in absent):
        listed = ", ".join(sorted(others))
        notes.append(f"{len(absent)} modules of the adapter are of other components than the base ({listed})")
        return
    first = printable(absent[0].name) if absent else "no module"
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    raise InputError(
        f"{adapter.where}: changes {first!r}{more}, which {printable(base.ref)} does not hold ({examples(base)}): it is"
        " an adapter of another base"
    )


class _Names:
    """A base's tensors by the names that adapters give them."""

    def __init__(self, base: Checkpoint, *, joined: bool) -> None:
        self._base = base
        self._joined = joined
        self._canonical: dict[str, str] | None = None
        self._endings: dict[str, str | None] | None = None

    def tensor(self, name: str) -> str | None:
        """The base's own name of a tensor: the same, the same by the canonical names, or the only one that ends so."""
        if name in self._base:
            return name
        if self._canonical is None:
            self._canonical = {canonical: own for own, canonical in canonical_names(self._base).items()}
        if (own := self._canonical.get(canonical_names([name])[name])) is not None:
            return own
        if self._endings is None:
            self._endings = _by_ending(self._base)
        return next((own for end in _endings(name) if (own := self._endings.get(end))), None)

    def module(self, module: Module) -> str | None:
        """What stands before `.weight` in the base's name of a module's weight; the name of a stack of experts."""
        if self._joined:
            return self._by_underscores(module.name)
        own = self.tensor(f"{module.name}.weight")
        return own.removesuffix(".weight") if own else self._stack(module)

    def _by_underscores(self, name: str) -> str | None:
        short = _COMPONENT.sub("", name, count=1)
        if self._endings is None:
            whole = [own.removesuffix(".weight") for own in self._base if own.endswith(".weight")]
            self._endings = {}
            for own in whole:
                for end in _endings(own):
                    key = end.replace(".", "_")
                    self._endings[key] = None if key in self._endings and self._endings[key] != own else own
        return self._endings.get(short)

    def _stack(self, module: Module) -> str | None:
        """The stack of experts that a module's factors fit: PEFT nests the parameters of one module, so that the name
        does not tell which is which.
        """
        name = module.name
        while name.endswith(".base_layer"):
            name = name.removesuffix(".base_layer")
        if "lora_A" not in module.parts:
            return None
        inside = [own for own in self._base if f".{own}".find(f".{name}.") >= 0][:_MOST]
        stacks = [own for own in inside if fits(module, self._base[own].shape)]
        if len(stacks) > 1:
            listed = " and ".join(f"'{printable(own)}'" for own in stacks[:2])
            raise module.wrong(f"fits {listed}: which of them it changes is not known; merge it in PEFT")
        return stacks[0] if stacks else None


def _endings(name: str) -> list[str]:
    """The name, and what is left of it without its first segments; a number, as of a layer, is never left out."""
    made = [name]
    for _ in range(_DEPTH):
        first, dot, rest = made[-1].partition(".")
        if not dot or "." not in rest or first.isdigit():
            break
        made.append(rest)
    return made


def _by_ending(names: Iterable[str]) -> dict[str, str | None]:
    """{a name without its first segments: the name}, None where several end so."""
    made: dict[str, str | None] = {}
    for name in names:
        for end in _endings(name):
            made[end] = None if made.get(end, name) != name else name
    return made
