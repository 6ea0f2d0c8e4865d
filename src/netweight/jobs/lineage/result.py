"""What `lineage` returns, and the files that it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from netweight.jobs.inputs import Reference
from netweight.jobs.lineage.checks import Check, checks_of, verdict_of
from netweight.jobs.lineage.columns import COLUMNS
from netweight.jobs.lineage.merges import Merge
from netweight.jobs.lineage.plan import Failed
from netweight.jobs.lineage.relation import Relation
from netweight.jobs.lineage.sketch import SKETCH_VERSION, Sketch
from netweight.jobs.lineage.tree import Edge, families, spanning
from netweight.jobs.pages import Reported
from netweight.page.section import Section
from netweight.version import __version__

__all__ = ["LineageResult"]

_LINEAR = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"})
_MADE_OF = 0.45  # of the distance to its parents, within which a model was made of a merge


@dataclass(frozen=True)
class LineageResult(Reported):
    """How models are related. `named` are those that were given, the others come from an index; `relations` of every
    pair that was tested; `base_of` the model that was asked about.
    """

    sketches: Sequence[Sketch] = field(repr=False)
    named: Sequence[str]
    relations: Sequence[Relation]
    merges: Sequence[Merge]
    failed: Sequence[Failed] = ()
    base_of: str | None = None

    @property
    def inputs(self) -> Sequence[Any]:  # type: ignore[override]
        """What identifies the models."""
        return [dict(sketch.about.identity) for sketch in self.sketches]

    def section(self) -> Section:
        """The result as a page shows it."""
        from netweight.jobs.lineage.page import section_of_lineage

        return section_of_lineage(self.base_of or f"{len(self.names)} models", self.to_dict())

    def locations(self) -> list[Path]:
        """The models' own paths on this machine."""
        return [path for entry in self.inputs if (path := Path(str(entry["path"]))).exists()]

    @property
    def names(self) -> list[str]:
        """All models."""
        return [sketch.name for sketch in self.sketches]

    @cached_property
    def families(self) -> list[list[str]]:
        """Models that are related, largest family first."""
        merged = [(merge.model, parent) for merge in self.merges for parent in merge.parents]
        return families(self.names, self.relations, merged)

    @cached_property
    def checks(self) -> list[Check]:
        """What the named models' files claim, each with its verdict."""
        return checks_of(self.sketches, self.named, self.relations, self.merges)

    @property
    def verdict(self) -> str:
        """Of all claims: "supported", "contradicted" or "undecided"."""
        return verdict_of(self.checks)

    def relation(self, a: str, b: str) -> Relation | None:
        """What was found of two models."""
        return next((r for r in self.relations if {r.a, r.b} == {a, b}), None)

    @cached_property
    def edges(self) -> list[Edge]:
        """The tree: of every merge an edge from each parent, else the edges that join a family over the least
        distances.
        """
        merged = {merge.model: merge for merge in self.merges}
        found = []
        for merge in self.merges:
            base = [(merge.base, 1 - sum(merge.weights))] if merge.base else []
            for parent, weight in [*zip(merge.parents, merge.weights, strict=True), *base]:
                relation = self.relation(parent, merge.model)
                p = relation.log10_p if relation else None
                drift = _finite(relation.figures.drift) if relation else None
                found.append(Edge(parent, merge.model, "merge", directed=True, label=f"merge {weight:.2f}", log10_p=p,
                                  drift=drift, weight=weight))  # fmt: skip
        return found + [
            Edge(
                relation.a,
                relation.b,
                relation.relation,
                directed=relation.direction.known,
                label=label_of(relation),
                log10_p=relation.log10_p,
                drift=_finite(relation.figures.drift),
            )
            for relation in spanning(self.names, self._without_merges(merged))
        ]

    def _without_merges(self, merged: Mapping[str, Merge]) -> list[Relation]:
        """The relations without those by which a merge would hang on a model that it was not made of: what is far
        nearer to it than to its parents was made of it.
        """
        copies = ("identical", "same values", "cast", "quantised")
        return [
            relation
            for relation in self.relations
            if relation.relation in copies
            or all(self._nearer(relation, name, merged[name]) for name in (relation.a, relation.b) if name in merged)
        ]

    def _nearer(self, relation: Relation, name: str, merge: Merge) -> bool:
        """Whether the other model of a relation is nearer to the merge `name` than to its parents, by much: the base of
        two equal parents is 0.71 of the way that it is from them, that of four half of it.
        """
        other = relation.b if relation.a == name else relation.a
        if other in {*merge.parents, merge.base}:
            return False
        held = [self.relation(parent, other) for parent in merge.parents]
        apart = [found.figures.apart for found in held if found is not None and found.related]
        return all(relation.figures.apart < _MADE_OF * distance for distance in apart)

    def base(self) -> Relation | None:
        """The relation to the model that `base_of` was most likely made from, of those not known to have come after it.

        The model that its files name, where the weights bear that out; else one that is known to have come first; else
        the one to which all of the family are nearest, since fine-tunes of one base are farther from each other.
        """
        if self.base_of is None:
            return None
        copies = ("identical", "same values")  # the model itself
        held = [r for r in self.relations if r.related and self.base_of in (r.a, r.b) and r.relation not in copies]
        earlier = {self._other(r): r for r in held if not (r.direction.known and r.a == self.base_of)}
        if not earlier:
            return None
        own = [check for check in self.checks if check.model == self.base_of and check.verdict == "supported"]
        named = [check.other for check in own if check.other in earlier]
        if len(named) == 1:
            return earlier[str(named[0])]
        known = [name for name, relation in earlier.items() if relation.direction.known]
        candidates = known or list(earlier)
        return earlier[min(candidates, key=lambda name: self._from_all(name, [*earlier, self.base_of or ""]))]

    def _other(self, relation: Relation) -> str:
        return relation.b if relation.a == self.base_of else relation.a

    def _from_all(self, name: str, family: Sequence[str]) -> float:
        """The sum of the distances of a model from a family."""
        from netweight.jobs.lineage.compared import shared

        by_name = {sketch.name: sketch for sketch in self.sketches}
        return sum(shared(by_name[name], by_name[other]).apart for other in family if other != name)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "netweight_version": __version__,
            "sketch_version": SKETCH_VERSION,
            "models": [_model(sketch, named=sketch.name in self.named) for sketch in self.sketches],
            "families": self.families,
            "edges": [vars(edge) for edge in self.edges],
            "merges": [vars(merge) for merge in self.merges],
            "relations": [relation_dict(relation) for relation in self.relations],
            "checks": [vars(check) for check in self.checks],
            "failed": [vars(one) for one in self.failed],
        }

    def write(self, output: Reference) -> tuple[str, ...]:
        """Put lineage.json, relations.parquet, lineage.dot and lineage.graphml into the folder `output`, in one step;
        returns notes. Raises OutputError, JobError, BusyError.
        """
        from netweight.jobs.lineage.graphs import write_dot, write_graphml
        from netweight.output.folder import ResultFolder
        from netweight.output.table import write_json, write_parquet

        files = ["lineage.json", "relations.parquet", "lineage.dot", "lineage.graphml"]
        with ResultFolder(Path(output), self.locations(), "lineage", planned=files) as folder:
            write_json(folder.stage / files[0], self.to_dict())
            rows = [row_of(relation) for relation in self.relations]
            write_parquet(folder.stage / files[1], COLUMNS, rows, inputs=self.inputs)
            write_dot(self.names, self.edges, folder.stage / files[2])
            write_graphml(self.names, self.edges, folder.stage / files[3])
            return folder.commit()


def label_of(relation: Relation) -> str:
    """The relation with what belongs to it, in a few words."""
    detail, word = relation.detail, relation.relation
    if word == "quantised" or (word == "cast" and "type" in detail):
        return f"{word} ({detail['type']})"
    if word in ("fine-tune", "far training", "vocabulary changed") and "rows" in detail:
        return f"{word} (rows {detail['rows'][0]} -> {detail['rows'][1]})"
    if word == "same values":
        return f"{word} ({' = '.join(detail['types'])})"
    if word in ("adapter", "adapter merged") and "rank" in detail:
        every = set(detail["targets"]) >= _LINEAR
        on = "all linear layers" if every else ", ".join(detail["targets"])
        return f"{word} (rank {detail['rank']} on {on})"
    if word == "layers changed" and relation.layers is not None:
        held = relation.layers
        words = [
            f"{len(numbers)} {what}"
            for what, numbers in (("removed", held.removed), ("repeated", held.repeated), ("new", held.added))
            if numbers
        ]
        return f"{word} ({', '.join(words) or 'in another order'})"
    return word


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _model(sketch: Sketch, *, named: bool) -> dict[str, Any]:
    about = sketch.about
    return {
        "name": about.name, "named": named, "identity": dict(about.identity), "parameters": about.parameters,
        "layers": about.layers, "stored": dict(about.stored), "config": dict(about.config),
        "claims": [dict(claim) for claim in about.claims], "adapters": list(about.adapters), "notes": list(about.notes),
        "digest": sketch.digest, "read_bytes": about.read_bytes, "file_bytes": about.file_bytes,
    }  # fmt: skip


def relation_dict(relation: Relation) -> dict[str, Any]:
    """One relation with all its evidence, JSON-safe, so that it can be computed again."""
    evidence = relation.evidence
    layers = relation.layers
    return {
        **{column.name: cell for column, cell in zip(COLUMNS, row_of(relation), strict=True)},
        "label": label_of(relation),
        "detail": {key: _safe(value) for key, value in relation.detail.items()},
        "reasons": list(relation.reasons),
        "seed": evidence.seed,
        "tests": [
            {
                "block": block.shown, "p": block.test.p, "z": block.test.z, "units": block.test.units,
                "permutations": block.test.permutations, "mean_cosine": block.test.mean_cosine,
            }
            for block in evidence.blocks
        ],
        "layers": None if layers is None else {
            "stack": layers.stack, "layers_b": list(layers.layers_b), "of_a": list(layers.of),
            "scores": list(layers.scores), "removed": layers.removed, "repeated": layers.repeated, "new": layers.added,
        },
    }  # fmt: skip


def _safe(value: Any) -> Any:
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, Mapping):
        return {key: _safe(held) for key, held in value.items()}
    return [_safe(held) for held in value] if isinstance(value, list) else value


def row_of(relation: Relation) -> tuple[Any, ...]:
    """A row of relations.parquet."""
    evidence, figures = relation.evidence, relation.figures
    return (
        relation.a,
        relation.b,
        relation.relation,
        relation.direction.known,
        relation.direction.reason,
        relation.log10_p,
        len(evidence.blocks),
        evidence.units,
        evidence.permutations,
        _finite(evidence.detectable),
        figures.elements,
        100 * figures.equal if figures.elements else None,
        _finite(figures.drift) if figures.elements else None,
        figures.cosine if figures.elements else None,
        label_of(relation),
        "; ".join(relation.reasons) or None,
    )
