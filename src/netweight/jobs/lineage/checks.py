"""Whether the weights bear out what a model's files claim of its descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netweight.jobs.lineage.merges import Merge
from netweight.jobs.lineage.relation import Relation
from netweight.jobs.lineage.sketch import Sketch
from netweight.jobs.lineage.sketching import last_part

__all__ = ["EXIT_CODES", "Check", "checks_of", "named_model", "verdict_of"]

EXIT_CODES = {"supported": 0, "contradicted": 3, "undecided": 4}
"""What `netweight lineage --check` ends with."""


@dataclass(frozen=True)
class Check:
    """One claim: the model that makes it, whom it names and where; `other` is the model of that name that was looked
    at, None without one; `verdict` is a key of EXIT_CODES.
    """

    model: str
    named: str
    where: str
    other: str | None
    verdict: str
    reason: str


def named_model(named: str, names: Sequence[str], refs: Mapping[str, tuple[str, str]]) -> str | None:
    """The model that a claim means: of this reference or path, else the only one whose name has this last part."""
    for name in names:
        if named in (name, *refs.get(name, ())):
            return name
    last = last_part(named)
    alike = [name for name in names if last and last_part(name) == last]
    return alike[0] if len(alike) == 1 else None


def checks_of(
    sketches: Sequence[Sketch], named: Sequence[str], relations: Sequence[Relation], merges: Sequence[Merge]
) -> list[Check]:
    """A check of every claim of the models `named`."""
    names = [sketch.name for sketch in sketches]
    refs = {s.name: (str(s.about.identity["ref"]), str(s.about.identity["path"])) for s in sketches}
    said = {
        sketch.name: {named_model(claim["named"], names, refs) for claim in sketch.about.claims} for sketch in sketches
    }
    found = []
    for sketch in sketches:
        if sketch.name not in named:
            continue
        for claim in sketch.about.claims:
            other = named_model(claim["named"], names, refs)
            if other == sketch.name:
                continue
            verdict, reason = _judged(sketch.name, other, claim.get("kind", ""), relations, merges)
            if other is not None and sketch.name in said[other] and verdict == "supported":
                verdict, reason = "undecided", f"{other} claims to descend from {sketch.name}: one of the two is wrong"
            found.append(Check(sketch.name, claim["named"], claim["where"], other, verdict, reason))
    return found


def _judged(
    name: str, other: str | None, kind: str, relations: Sequence[Relation], merges: Sequence[Merge]
) -> tuple[str, str]:
    if other is None:
        return "undecided", "is not among the models that were looked at: name it, or an index that has it"
    merge = next((merge for merge in merges if merge.model == name), None)
    if kind == "merge" and merge is not None and merge.exact and other not in {*merge.parents, merge.base}:
        return "contradicted", f"the weights are those of a merge of {', '.join(merge.parents)}"
    relation = next((r for r in relations if {r.a, r.b} == {name, other}), None)
    if relation is None or relation.relation == "undecided":
        return "undecided", "; ".join(relation.reasons) if relation else "the two were not compared"
    if relation.relation == "unrelated":
        return "contradicted", f"no trace of one start ({relation.sure}): {relation.reasons[0]}"
    if relation.direction.known and relation.a == name:
        return "contradicted", f"it is the other way round: {relation.direction.reason}"
    return "supported", f"{relation.relation}, {relation.sure}"


def verdict_of(checks: Sequence[Check]) -> str:
    """Of all claims together: contradicted where one is, supported where all are; undecided without any."""
    held = {check.verdict for check in checks}
    if "contradicted" in held:
        return "contradicted"
    return "supported" if held == {"supported"} else "undecided"
