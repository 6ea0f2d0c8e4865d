"""Which of two related models came first, where the weights say so; else the direction is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netweight.jobs.lineage.layers import LayerMap
from netweight.jobs.lineage.sketch import Sketch
from netweight.statistics.kinship.form import on_grid

__all__ = ["Direction", "direction_of"]


@dataclass(frozen=True)
class Direction:
    """`known`: one model came first, the second after it where `backwards`; `reason` in words."""

    known: bool
    backwards: bool
    reason: str

    @classmethod
    def open(cls) -> Direction:
        """Nothing says which came first."""
        return cls(known=False, backwards=False, reason="nothing in the weights says which came first")

    @classmethod
    def first(cls, *, backwards: bool, reason: str) -> Direction:
        """The second came first where `backwards`."""
        return cls(known=True, backwards=backwards, reason=reason)


def direction_of(a: Sketch, b: Sketch, relation: str, detail: Mapping[str, Any], layers: LayerMap | None) -> Direction:
    """Which came first, of models of this relation; `detail` and `layers` are of b against a."""
    if relation == "adapter":
        plain, other = (b, a) if a.about.adapters else (a, b)
        if other.about.base == plain.about.identity["path"]:
            return Direction.first(backwards=plain is b, reason="an adapter is put on a model that is there")
        return Direction.open()
    if relation in ("cast", "quantised"):
        return _leaf(a, detail)
    if relation == "layers changed" and layers is not None:
        return _by_layers(layers)
    if relation == "upcycled":
        return Direction.first(
            backwards=detail["dense"] != a.name, reason="experts are made of a dense model, not the other way"
        )
    if relation == "narrowed":
        return _by_width(detail)
    if relation in ("adapter merged", "rank-one edit", "fine-tune", "rescaled"):
        return _by_grid(a, b)
    return Direction.open()


def _leaf(a: Sketch, detail: Mapping[str, Any]) -> Direction:
    """What was rounded came after what it was rounded from."""
    rounded = detail.get("rounded")
    if rounded is None:
        return Direction.open()
    return Direction.first(
        backwards=rounded == a.name, reason=f"{rounded} is the other rounded, and what rounding took away is lost"
    )


def _by_layers(layers: LayerMap) -> Direction:
    if layers.repeated and layers.doubled:
        return Direction.open()
    if layers.doubled:
        return Direction.first(
            backwards=True, reason=f"layers {_listed(layers.doubled)} of the other are there more than once"
        )
    if layers.repeated:
        return Direction.first(backwards=False, reason=f"layers {_listed(layers.repeated)} are there more than once")
    turned = layers.turned()
    if len(layers.layers_b) < len(layers.layers_a) and layers.in_order and not layers.added:
        return Direction.first(
            backwards=False,
            reason=f"layers {_listed(layers.removed)} are gone, and none is there that is not the other's",
        )
    if len(layers.layers_b) > len(layers.layers_a) and turned.in_order and not turned.added and layers.added:
        return Direction.first(
            backwards=True,
            reason=f"layers {_listed(turned.removed)} are gone, and none is there that is not the other's",
        )
    return Direction.open()


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (", ..." if len(numbers) > 12 else "")


def _by_width(detail: Mapping[str, Any]) -> Direction:
    sizes = [(detail[side]["dimensions"] or 0, max(detail[side]["units"], default=0)) for side in ("a", "b")]
    (da, ua), (db, ub) = sizes
    if (da >= db and ua >= ub) or (db >= da and ub >= ua):
        return Direction.first(
            backwards=(db, ub) > (da, ua), reason="the narrower one has a part of what the wider one has"
        )
    return Direction.open()


def _by_grid(a: Sketch, b: Sketch) -> Direction:
    """A model whose weights are all on bfloat16's grid is the base of one that left the grid only where it differs:
    what did not change could not be there otherwise.
    """
    if all(held.dtype == "BF16" for side in (a, b) for held in side.tensors.values()):
        return Direction.open()  # all of both is on the grid
    if any(held.stored != held.dtype for side in (a, b) for held in side.tensors.values()):
        return Direction.open()
    off = {}
    for side, other in ((a, b), (b, a)):
        changed_off = unchanged_on = unchanged = changed = 0
        for key, held in side.tensors.items():
            theirs = other.tensors.get(key)
            if theirs is None or theirs.values.shape != held.values.shape or held.values.size < 64:
                continue
            same = bool((held.values == theirs.values).all())
            grid = on_grid(held.values, "BF16") == 1.0
            unchanged += same
            changed += not same
            unchanged_on += same and grid
            changed_off += not same and not grid
        off[side.name] = changed_off, changed, unchanged_on, unchanged
    for first, second in ((a, b), (b, a)):
        own_off, _, own_on, own_unchanged = off[first.name]
        their_off, their_changed, _their_on, their_unchanged = off[second.name]
        if not own_off and own_on == own_unchanged and their_unchanged and their_off == their_changed > 0:
            return Direction.first(
                backwards=first is b,
                reason=f"all of {first.name} is on bfloat16's grid, of {second.name} just what did not change",
            )
    return Direction.open()
