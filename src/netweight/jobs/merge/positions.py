"""What follows from the number of a layer, where slices give layers other numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from netweight.errors import InputError, printable
from netweight.jobs.merge.layering import kinds_of
from netweight.jobs.merge.sides import Side, stack_of

if TYPE_CHECKING:
    from netweight.jobs.merge.slices import Group, Origin

__all__ = ["check_tables", "note_on_kinds"]

_WIDTH = "hidden_size_per_layer_input"  # of a layer's part in the tables


def check_tables(groups: Sequence[Group], sides: Mapping[int, Side], anchor: Side) -> None:
    """Refuse slices that move layers where a table outside the blocks has a part for every layer (Gemma 3n's embeddings
    of each layer). Raises InputError.
    """
    config = anchor.checkpoint.config or {}
    text = config.get("text_config")
    levels = [level for level in (text, config) if isinstance(level, Mapping)]
    width = next((level[_WIDTH] for level in levels if _WIDTH in level), 0)
    starts = [start for group in groups for start in group.starts]
    expected = [sum(g.layers for g in groups[:at]) for at, group in enumerate(groups) for _ in group.starts]
    kept = starts == expected and all(
        sides[n].layers == sum(g.layers for g in groups) for g in groups for n in g.inputs
    )
    if kept or type(width) is not int or width < 1:
        return
    for name, p in anchor.parameters.items():
        if p.layer is None and "per_layer" in name and anchor.layers * width in anchor.model.tensors[name].shape:
            raise InputError(
                f"{anchor.ref}: '{printable(name)}' has a part for every layer by its number, so that slices cannot"
                " move, repeat or drop layers of this model; take every layer once, in its place, or use models instead"
            )


def note_on_kinds(origins: Sequence[Origin], anchor: Side) -> list[str]:
    """A note for tensors that some layers of the anchor have and others not, by rules of the model's code that config
    does not say, where the merged model has them in other layers: the first, the last, or those of other numbers.
    """
    kinds = kinds_of(anchor.checkpoint.config, anchor.layers)
    stack = stack_of(anchor.model)
    was: dict[str, set[int]] = {}
    now: dict[str, set[int]] = {}
    for number, block in stack.blocks.items():
        for tail in block if number < anchor.layers else ():
            was.setdefault(tail, set()).add(number)
    for origin in origins:
        if origin.layer is not None:
            now.setdefault(origin.name.removeprefix(f"{stack.head}.{origin.layer}."), set()).add(origin.layer)
    count = len(set().union(*now.values()))
    moved = []
    for tail, layers in was.items():
        lacking = set(range(anchor.layers)) - layers
        unsaid = {kinds[n] for n in layers} & {kinds[n] for n in lacking}
        if unsaid and now.get(tail, set()) != _expected(layers, lacking, anchor.layers - 1, count):
            moved.append(tail)
    if not moved:
        return []
    held = sorted(was[moved[0]])
    which = f"layer {held[0]}" if len(held) == 1 else f"{len(held)} of {anchor.layers} layers"
    more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
    what = f"only {which} has '{printable(moved[0])}'{more}, which config.json does not say"
    return [f"{anchor.ref}: {what}, and other layers of the merged model have it: check that it loads"]


def _expected(layers: set[int], lacking: set[int], last: int, count: int) -> set[int]:
    """Which of `count` layers have what `layers` of the anchor have and `lacking` do not."""
    if layers == {last}:
        return {count - 1}
    if lacking == {0}:
        return set(range(1, count))
    return set(range(count - 1)) if lacking == {last} else layers
