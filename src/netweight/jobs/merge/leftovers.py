"""Tensors of the inputs that no parameter of the output uses: each with its reason, or a fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netweight.checkpoint.tensor import Skipped
from netweight.dtypes import Kind
from netweight.errors import printable
from netweight.jobs.merge.faults import Faults
from netweight.jobs.merge.sides import Side, is_head
from netweight.jobs.merge.slices import Group, Origin

__all__ = ["find_leftovers"]


def find_leftovers(
    origins: Sequence[Origin],
    groups: Sequence[Group],
    sides: Mapping[int, Side],
    anchor: Side,
    faults: Faults,
    *,
    keep_going: bool,
) -> tuple[list[Skipped], list[str]]:
    """Unused tensors with their reasons, and notes. Weights that the anchor lacks are faults, unless `keep_going`."""
    used: dict[int, set[str]] = {number: set() for number in sides}
    for origin in origins:
        held = zip(groups[origin.group].inputs, origin.own, strict=True)
        for number, tensor in (origin.reference, *held):
            if tensor is not None:
                used[number].update(part.name for part in tensor.parts)
    layers = _layers_used([group for group in groups if group.number is not None], sides)
    parts_of = {id(group.recipe) for group in groups}
    dropped: list[Skipped] = []
    notes: list[str] = []
    for number, side in sides.items():
        paired = {part.name for tensor in side.tensors.values() for part in tensor.parts}
        heads: list[str] = []
        repeats = _repeats(side, anchor, used[number])
        for name, p in side.parameters.items():
            parts = side.left.get(name, ())
            if name in used[number] and (not parts or parts == (name,)):
                continue
            inside = layers is not None and p.layer is not None and not p.stack
            if inside and layers is not None and p.layer not in layers[number]:
                reason = f"layer {p.layer} of {side.ref} is in no slice"
            elif name in repeats:
                reason = f"tied to '{printable(repeats[name])}' in {side.ref}: written once"
            elif len(parts_of) > 1 and name in paired:
                reason = f"the recipe takes other parts of {side.ref}"
            elif layers is not None and not inside and name in paired:
                reason = f"outside of the blocks, and {side.ref} gives only blocks there"
            elif p.state == "derived":
                reason = f"not in {anchor.ref}; computed by the model's code, not trained (in {side.ref})"
            elif side.checkpoint[name].dtype.kind is not Kind.FLOAT:
                dtype = side.checkpoint[name].dtype
                reason = f"not in {anchor.ref}; {dtype.kind.value} dtype {dtype}: not a weight (in {side.ref})"
            elif is_head(p) and anchor.tied_to is not None:
                reason = (
                    f"{anchor.ref} ties its head to '{printable(anchor.tied_to)}'; the head of {side.ref} is left out"
                )
                heads.append(name)
            elif keep_going:
                reason = f"not in {anchor.ref} (in {side.ref}; --missing base)"
            else:
                faults.extra += [(part, number) for part in parts or (name,)]
                continue
            dropped += [Skipped(part, reason) for part in parts or (name,)]
        if heads:
            notes.append(
                f"{side.ref}: has a head of its own, '{printable(heads[0])}', and {anchor.ref} ties its head to the"
                " embedding: that head is left out"
            )
    return dropped, notes


def _layers_used(groups: Sequence[Group], sides: Mapping[int, Side]) -> dict[int, set[int]] | None:
    """{checkpoint: the layers of it that some slice takes}, None where whole models are merged."""
    if not groups:
        return None
    layers: dict[int, set[int]] = {number: set() for number in sides}
    for group in groups:
        for number, start in zip(group.inputs, group.starts, strict=True):
            layers[number].update(range(start, start + group.layers))
    return layers


def _repeats(side: Side, anchor: Side, used: set[str]) -> dict[str, str]:
    """{an unused tensor: the used one with the same storage}."""
    repeats = dict(anchor.aliases) if side is anchor else {}
    members: dict[str, list[str]] = {}
    for alias, root in side.checkpoint.shared.items():
        members.setdefault(root, [root]).append(alias)
    for group in members.values():
        written = next((name for name in group if name in used), None)
        if written is not None:
            repeats |= {name: written for name in group if name not in used and name not in repeats}
    return repeats
