"""What one model is to another, in words, with the evidence for it: rules over what two sketches hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from netweight.jobs.lineage.compared import (
    Evidence,
    Shared,
    columns_between,
    common_rows,
    evidence_of,
    figures_of,
    shared,
    tokens_alike,
)
from netweight.jobs.lineage.direction import Direction, direction_of
from netweight.jobs.lineage.forms import changes_of
from netweight.jobs.lineage.layers import LayerMap, layer_map
from netweight.jobs.lineage.sketch import Sketch
from netweight.statistics.kinship.alignment import Columns

__all__ = ["IN_PLACE", "RELATIONS", "Relation", "relate"]

RELATIONS = {
    "identical": "the same weights in the same types, in all that was read",
    "same values": "the same values, stored otherwise",
    "cast": "one is the other, rounded to another floating-point type",
    "quantised": "one is the other, quantised",
    "adapter": "one is the other with an adapter, which is a file of its own",
    "adapter merged": "they differ by updates of low rank",
    "rank-one edit": "they differ by one direction, taken out of what writes to the residual stream",
    "fine-tune": "one is trained from the other, or both from a third",
    "far training": "they have one start, and most of the weights moved far from it",
    "merge": "one is made of the other and of further models",
    "layers changed": "layers of one are those of the other: left out, repeated or put in another order",
    "narrowed": "one has a part of the units or dimensions of the other",
    "upcycled": "experts of one are copies of the other's feed-forward layers",
    "vocabulary changed": "the same weights, with more or fewer rows of the embedding and the head",
    "rescaled": "rows or columns of one are those of the other times factors, which undo each other",
    "reordered": "the dimensions of one are those of the other in another order, or with other signs",
    "unrelated": "no trace of one start, where a test would have found it",
    "undecided": "the test says too little either way",
}
"""What two models can be to each other, and what that means."""

CERTAIN = -6.0 + 1e-9  # log10 of p: at or below this two models have one start
OPEN = -3.0  # above this nothing speaks for it
_WEAK = 0.2  # a correlation of weights that a test must have been able to find, for "unrelated"
_FINITE = 0.9  # of the weights, below which nothing is said
_GEOMETRY = 0.97  # correlation of tokens' cosines, beyond what one text gives to models of two starts
_ALIKE = 0.1  # the cosine of matrices that have something in common
_NOTHING = 0.8  # |b - a| / |a| of matrices that have little in common
_FAR = 0.5  # |b - a| / |a| beyond which training has moved weights far


@dataclass(frozen=True)
class Relation:
    """What `b` is to `a`, the earlier one where the direction is known. `detail` belongs to the relation: the type,
    rank and targets, layers, weights. `log10_p`: of one start by chance.
    """

    a: str
    b: str
    relation: str
    direction: Direction
    evidence: Evidence
    figures: Shared
    detail: Mapping[str, Any] = field(default_factory=dict)
    layers: LayerMap | None = None
    reasons: Sequence[str] = ()

    @property
    def related(self) -> bool:
        """Whether they have one start."""
        return self.relation not in ("unrelated", "undecided")

    @property
    def distance(self) -> float:
        """How far apart they are, for trees: |b - a| for a weight, root mean square; a change of structure is farther
        than any training, and models without a relation are infinitely far.
        """
        if not self.related:
            return float("inf")
        return self.figures.apart + (_BEYOND if self.relation in _STRUCTURAL else 0.0)

    @property
    def log10_p(self) -> float | None:
        """Of the test that decided: of columns in any order where units of one number have nothing in common; None
        without a test.
        """
        columns = self.evidence.columns
        if self.relation in ("reordered", "narrowed") and columns is not None:
            return min(columns.test.log10_p, self.evidence.log10_p)
        return self.evidence.log10_p if self.evidence.blocks else None

    def light(self) -> Relation:
        """The same without the weights that it was found by."""
        return replace(self, figures=replace(self.figures, pairs={}))

    @property
    def sure(self) -> str:
        """How sure, in words that a table takes."""
        p = self.log10_p
        if p is None:
            return "no test"
        return f"p = 1e{p:.0f}" if p < -3 else f"p = {10**p:.2g}"


IN_PLACE = frozenset({
    "identical", "same values", "cast", "quantised", "adapter", "adapter merged", "rank-one edit", "fine-tune",
    "far training", "vocabulary changed", "rescaled",
})  # fmt: skip
"""Relations of models whose tensors are one against one, so that sums of them mean something."""

_BEYOND = 1e6
_STRUCTURAL = frozenset({"layers changed", "narrowed", "upcycled", "reordered"})


def relate(a: Sketch, b: Sketch) -> Relation:
    """What two models are to each other, of their sketches alone."""
    evidence = evidence_of(a, b)
    figures = shared(a, b)
    found = Relation(a.name, b.name, "undecided", Direction.open(), evidence, figures)
    if _the_same(a, b, figures):
        return _stored_otherwise(a, b, found)
    if figures.pairs and figures.finite < _FINITE:
        share = f"{100 * (1 - figures.finite):.3g}% of the weights that both hold are not numbers in one of them"
        return replace(found, reasons=[share])
    layers = None
    if _depths(a) != _depths(b) or evidence.log10_p > CERTAIN:
        layers = layer_map(a, b)
        if layers is not None and layers.certain and not layers.identity:
            mapped = shared(a, b, layers.keys(a, b))
            evidence = evidence_of(a, b, blocks=layers.blocks(a, b), tried=len(layers.layers_a))
            changed = replace(found, relation="layers changed", layers=layers, figures=mapped, evidence=evidence)
            return _directed(a, b, changed)
    if (upcycled := _upcycled(a, b, found)) is not None:
        return _directed(a, b, upcycled)
    if evidence.log10_p <= CERTAIN:
        if _narrower(a, b):
            narrowed = replace(found, relation="narrowed", detail=_widths(a, b), figures=_as_wide(a, b, None))
            return _directed(a, b, narrowed)
        return _directed(a, b, _changed(a, b, found))
    return _without_order(a, b, found)


def _depths(sketch: Sketch) -> dict[str, int]:
    found: dict[str, int] = {}
    for held in sketch.tensors.values():
        if held.parameter.layer is not None:
            stack = held.parameter.stack
            found[stack] = max(found.get(stack, 0), held.parameter.layer + 1)
    return found


def _the_same(a: Sketch, b: Sketch, figures: Shared) -> bool:
    every = len(figures.pairs) == len(a.tensors) == len(b.tensors)
    return every and figures.equal == 1.0 and figures.same_shape == 1.0


def _stored_otherwise(a: Sketch, b: Sketch, found: Relation) -> Relation:
    types = [{key: (held.dtype, held.stored) for key, held in side.tensors.items()} for side in (a, b)]
    if types[0] != types[1]:
        detail = {"types": [_types_of(side) for side in (a, b)]}
        return _directed(a, b, replace(found, relation="same values", detail=detail))
    if a.digest == b.digest:
        return replace(found, relation="identical", reasons=["every byte that was read is equal"])
    return replace(
        found,
        relation="fine-tune",
        reasons=["equal in the columns that are kept, and not in whole rows that were read"],
    )


def _types_of(sketch: Sketch) -> str:
    held = {entry.stored for entry in sketch.tensors.values() if len(entry.shape) > 1}
    return "+".join(sorted(held))


def _changed(a: Sketch, b: Sketch, found: Relation) -> Relation:
    """The relation of models of one start whose tensors are one against one."""
    changes = changes_of(a, b, found.figures)
    detail = changes.detail()
    rows = [sketch.tensors["token_embedding"].shape[0] for sketch in (a, b) if sketch.embedding() is not None]
    if len(rows) == 2 and rows[0] != rows[1]:
        detail["rows"] = rows
        if found.figures.equal == 1.0:
            return replace(found, relation="vocabulary changed", detail=detail)
    if (said := _other_heads(changes.by_role)) is not None:
        return replace(found, relation="reordered", detail=detail, reasons=[said])
    if bool(a.about.adapters) != bool(b.about.adapters) and changes.kind in ("", "adapter merged"):
        return replace(found, relation="adapter", detail=detail)
    if changes.kind:
        return replace(found, relation=changes.kind, detail=detail, reasons=changes.reasons)
    far = changes.drift > _FAR
    return replace(found, relation="far training" if far else "fine-tune", detail=detail, reasons=changes.reasons)


def _other_heads(by_role: Mapping[str, float]) -> str | None:
    """Attention without anything in common, where the rest is near: its heads have another order."""
    attention = [by_role[slot] for slot in ("q_proj", "v_proj", "o_proj") if slot in by_role]
    rest = [drift for slot, drift in by_role.items() if slot in ("gate_proj", "up_proj", "down_proj")]
    if len(attention) < 2 or not rest or min(attention) < _NOTHING or max(rest) > 0.3 * min(attention):
        return None
    return "of the attention nothing is alike in this order, of the rest nearly all: its heads have another order"


def _directed(a: Sketch, b: Sketch, found: Relation) -> Relation:
    """The same with its direction, the earlier model first."""
    direction = direction_of(a, b, found.relation, found.detail, found.layers)
    if not direction.backwards:
        return replace(found, direction=direction)
    return replace(
        found,
        a=found.b,
        b=found.a,
        direction=direction,
        detail=_turned(found.detail),
        layers=found.layers.turned() if found.layers else None,
        evidence=found.evidence.turned(),
        figures=found.figures.turned(),
    )


def _turned(detail: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to a relation, of the two models in the other order."""
    said = dict(detail)
    for key in ("rows", "types"):
        if key in said:
            said[key] = said[key][::-1]
    if "a" in said and "b" in said:
        said["a"], said["b"] = said["b"], said["a"]
    return said


def _upcycled(a: Sketch, b: Sketch, found: Relation) -> Relation | None:
    """The relation where experts of one are the other's dense layers; None where they are not."""
    for dense, sparse in ((a, b), (b, a)):
        experts = [units for units in sparse.units.values() if units.expert is not None]
        layers = {(u.stack, u.layer): u for u in dense.units.values() if u.expert is None}
        pairs = [(layers[u.stack, u.layer], u) for u in experts if (u.stack, u.layer) in layers]
        pairs = [(one, two) for one, two in pairs if one.count == two.count]
        if not pairs or any(units.expert is not None for units in dense.units.values()):
            continue
        # one expert of a layer: experts that are copies of one layer say nothing new
        first = list({one.label: (one, two) for one, two in reversed(pairs)}.values())
        blocks = first if dense is a else [(two, one) for one, two in first]
        evidence = evidence_of(a, b, blocks=blocks)
        if evidence.log10_p >= CERTAIN:
            continue
        held = {
            theirs[slot]: own[slot]
            for one, two in pairs
            for own, theirs in (({**one.rows, **one.cols}, {**two.rows, **two.cols}),)
            for slot in theirs
            if slot in own
        }
        beside = {key: key for key in sparse.tensors if key in dense.tensors}
        copies = shared(sparse, dense, beside | held)
        detail = {
            "dense": dense.name, "sparse": sparse.name, "experts_read": len({u.expert for u in experts}),
            "cosine": copies.cosine, "equal": copies.equal, "drift": copies.drift,
        }  # fmt: skip
        return replace(found, relation="upcycled", detail=detail, evidence=evidence, figures=copies)
    return None


def _narrower(a: Sketch, b: Sketch) -> bool:
    widths = _widths(a, b)
    return bool(widths["a"] != widths["b"])


def _widths(a: Sketch, b: Sketch) -> dict[str, Any]:
    """(dimensions of the residual stream, units of a block) of both."""
    said: dict[str, Any] = {}
    for side, sketch in (("a", a), ("b", b)):
        held = sketch.embedding()
        units = sorted({entry.count for entry in sketch.units.values()})
        said[side] = {"dimensions": held.shape[-1] if held else None, "units": units[-1:]}
    return said


def _attention_alike(a: Sketch, b: Sketch) -> bool:
    """Whether the attention has anything in common in its order, where both have one."""
    slots = ("q_proj", "k_proj", "v_proj", "o_proj")
    held = {key: key for key, one in a.tensors.items() if key in b.tensors and one.parameter.slot in slots}
    return not held or shared(a, b, held).cosine > _ALIKE


def _as_wide(a: Sketch, b: Sketch, columns: Columns | None) -> Shared:
    """The figures of what is as wide in both; of the embedding, with its columns in order, where nothing is."""
    same = {key: key for key, held in a.tensors.items() if key in b.tensors and b.tensors[key].shape == held.shape}
    if columns is None and same:
        return shared(a, b, same)
    one, two = a.embedding(), b.embedding()
    if columns is None or one is None or two is None:
        return shared(a, b)
    rows = common_rows(one, two)
    held = np.flatnonzero(columns.of >= 0)
    ordered = rows[0][:, columns.of[held]] * columns.signs[held].astype(np.float32)
    return figures_of({"token_embedding": (ordered, rows[1][:, held])})


def _without_order(a: Sketch, b: Sketch, found: Relation) -> Relation:
    """The relation of models whose units of one number have nothing in common: reordered, narrowed, or none."""
    columns = columns_between(a, b)
    evidence = replace(found.evidence, columns=columns)
    found = replace(found, evidence=evidence)
    if columns is not None and columns.test.log10_p < CERTAIN and columns.likeness > 0.3:
        detail = {
            "columns_found": columns.found, "of": len(columns.of), "agreed": columns.test.agreed,
            "expected": columns.test.expected, "log10_p": columns.test.log10_p, "cosine": columns.likeness,
            "signs_flipped": int((columns.signs < 0).sum()), **_widths(a, b),
        }  # fmt: skip
        if columns.in_order and not _narrower(a, b) and not _attention_alike(a, b):
            said = (
                f"the embedding is the other's (p = 1e{columns.test.log10_p:.0f}), and of the rest nothing is alike in"
                " this order: --confirm tells whether units and heads are in another one"
            )
            return replace(found, detail=detail, reasons=[said])
        relation = "narrowed" if _narrower(a, b) else "reordered"
        said = "--confirm undoes the order and compares the whole models"
        found = replace(found, relation=relation, detail=detail, reasons=[said], figures=_as_wide(a, b, columns))
        return _directed(a, b, found)
    if not evidence.blocks:
        return replace(found, reasons=["they have no block of units and no embedding that could be compared"])
    alike = tokens_alike(a, b)
    if alike > _GEOMETRY:
        said = (
            f"tokens lie to each other as in the other (correlation {alike:.3f}), which a rotation of the residual"
            " stream leaves: --confirm tells"
        )
        return replace(found, detail={"tokens_alike": alike}, reasons=[said])
    if evidence.log10_p > OPEN and evidence.detectable < _WEAK:
        said = (
            f"a correlation of weights of {evidence.detectable:.2g} would have been found; a copy with its units and"
            " its residual stream rotated would not: --confirm tells"
        )
        return replace(found, relation="unrelated", reasons=[said])
    least = f"only a correlation of {evidence.detectable:.2g} or more would have been found"
    return replace(found, reasons=[least if evidence.detectable >= _WEAK else "p is between 1e-6 and 1e-3"])
