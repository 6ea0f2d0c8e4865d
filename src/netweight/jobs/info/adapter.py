"""What an adapter is: its kind, targets, ranks and scales, and the share of its base that it trains."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from netweight.checkpoint.adapters.adapter import Adapter, Module
from netweight.checkpoint.adapters.kinds import is_sum, update_of
from netweight.checkpoint.adapters.reading import adapter_in
from netweight.checkpoint.tensor import Checkpoint
from netweight.checkpoint.tensors.updates import UpdateTensor
from netweight.errors import NetweightError
from netweight.params.model import Model
from netweight.params.opening import base_of

__all__ = ["AdapterInfo", "adapter_info"]

_RANK = re.compile(r"r([0-9]+)$")


@dataclass(frozen=True)
class AdapterInfo:
    """`kind`: LoRA, IA3 ...; `base`: the model that it was trained on, as its file says, "" where it does not.
    `targets`: modules by the last word of their names. `ranks` and `scales` (of the product of the factors): how many
    modules have each, none where a kind has no such thing. `saved`: tensors that were trained whole. `parameters`:
    elements of all of it; `base_share`: those over the base's, None where the base is not here.
    """

    kind: str
    base: str
    targets: dict[str, int]
    ranks: dict[int, int]
    scales: dict[float, int]
    saved: tuple[str, ...]
    parameters: int
    base_share: float | None


def adapter_info(checkpoint: Checkpoint) -> tuple[AdapterInfo | None, str]:
    """(what the adapter is, "") of an adapter alone, (None, why) where it cannot be read; (None, "") of a model."""
    if checkpoint.made_of:
        return None, ""
    try:
        adapter = adapter_in(checkpoint)
        return (None, "") if adapter is None else (_described(checkpoint, adapter), "")
    except NetweightError as problem:
        return None, str(problem)


def _described(checkpoint: Checkpoint, adapter: Adapter) -> AdapterInfo:
    updates = [update for module in adapter.modules.values() if (update := _update(module)) is not None]
    ranks = Counter(int(found[1]) for update in updates if (found := _RANK.search(update.label)))
    parameters = sum(tensor.size for tensor in checkpoint.values() if tensor.shape)
    return AdapterInfo(
        f"{adapter.settings.kind}{', DoRA' if adapter.settings.dora else ''}",
        adapter.settings.base,
        dict(Counter(name.rpartition(".")[2] for name in adapter.modules).most_common()),
        dict(sorted(ranks.items())),
        dict(sorted(Counter(update.scale for update in updates).items())),
        tuple(adapter.saved),
        parameters,
        _share(checkpoint, adapter, parameters),
    )


def _update(module: Module) -> UpdateTensor | None:
    return update_of(module, ()) if is_sum(module) or "lora_A" in module.parts else None


def _share(checkpoint: Checkpoint, adapter: Adapter, parameters: int) -> float | None:
    """Of the base's elements, where it is on this machine: nothing is fetched for it."""
    base = base_of(checkpoint, adapter, here=True)
    if base is None:
        return None
    with base:
        tensors = Model(base)
        total = sum(t.size for name, t in tensors.tensors.items() if tensors.parameters[name].state != "derived")
    return parameters / total if total else None
