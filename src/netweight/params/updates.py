"""An adapter without its base: what it adds to each weight, as a model of updates."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from os import PathLike

from netweight.checkpoint.adapters.adapter import Adapter
from netweight.checkpoint.adapters.kinds import is_sum, update_of
from netweight.checkpoint.adapters.reading import adapter_in
from netweight.checkpoint.decoders.found import several
from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.checkpoint.tensors.updates import UpdateTensor
from netweight.errors import InputError
from netweight.params.opening import open_model, open_whole

__all__ = ["as_updates", "open_both", "updates_of"]


def open_both(
    a: str | PathLike[str], b: str | PathLike[str], stack: ExitStack, *, download: bool
) -> tuple[Checkpoint, Checkpoint]:
    """Two models that are compared: of two adapters their updates; an adapter beside a model is read on its base."""
    both = [stack.enter_context(open_model(ref, download=download)) for ref in (a, b)]
    alone = [not checkpoint.made_of and adapter_in(checkpoint) is not None for checkpoint in both]
    if all(alone):
        one, other = map(as_updates, both)
        kinds = [bool(held) and isinstance(next(iter(held.values())), UpdateTensor) for held in (one, other)]
        if kinds[0] != kinds[1]:
            needs = other if kinds[0] else one
            raise InputError(
                f"{needs.notes[-1].partition(': measured')[0]}, the other's does not: give BASE+ADAPTER for both"
            )
        return one, other
    refs = zip((a, b), both, alone, strict=True)
    first, second = (
        stack.enter_context(open_whole(ref, download=download)) if adapter else held for ref, held, adapter in refs
    )
    return first, second


def as_updates(checkpoint: Checkpoint) -> Checkpoint:
    """The updates of an adapter alone, under the names of the weights that they are added to; any other checkpoint as
    it is.

    A note says what is not among them: where weights are not changed by a sum (IA3, DoRA) the checkpoint is what its
    file holds, tensors that were trained whole are left out. Raises FormatError where parts do not fit.
    """
    adapter = adapter_in(checkpoint) if not checkpoint.made_of else None
    return checkpoint if adapter is None else updates_of(checkpoint, adapter)


def updates_of(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """See `as_updates`."""
    stacks = tuple(str(name).rpartition(".")[0] for name in adapter.settings.about.get("target_parameters") or ())
    sums = {
        name: module
        for name, module in adapter.modules.items()
        if is_sum(module) and not (stacks and name.replace(".base_layer", "").endswith(stacks))
    }
    if not sums or len(sums) < len(adapter.modules):
        kind = "DoRA" if adapter.settings.dora else adapter.settings.kind
        kind += " on stacks of experts" if stacks else ""
        note = f"{adapter.where}: what {kind} changes depends on the base: measured as it is stored; give BASE+ADAPTER"
        return _with(checkpoint, dict(checkpoint), note)
    tensors: dict[str, Tensor] = {
        name if adapter.architecture else f"{name}.weight": update_of(module, ()) for name, module in sums.items()
    }
    whole = ""
    if adapter.saved:
        them = several(len(adapter.saved), "tensor that was trained whole is", "tensors that were trained whole are")
        whole = f"; {them} left out, give BASE+ADAPTER"
    updates = several(len(tensors), "update", "updates")
    note = f"{adapter.where}: a {adapter.settings.kind} without its base: {updates}, what it adds to weights{whole}"
    return _with(checkpoint, {name: replace(tensor, name=name) for name, tensor in tensors.items()}, note)


def _with(checkpoint: Checkpoint, tensors: dict[str, Tensor], note: str) -> Checkpoint:
    made = checkpoint.with_tensors(tensors, {})
    made.notes = (*made.notes, note)
    return made
