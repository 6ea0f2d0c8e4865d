"""How `netweight lineage` does on the zoo: every relation against the truth.

    python examples/zoo/judge.py ZOO [--json FILE] [--all-pairs]

Prints the confusion of relations for every parent and child, false relations among models of two families, how uniform
the p-values of these are (Kolmogorov-Smirnov; with --all-pairs of all of them, not of those that a first look leaves),
merge weights, layer maps, directions, and the full test of every disguised model. Ends with 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kstest

import netweight
from netweight.jobs.lineage.confirm import Confirmation
from netweight.jobs.lineage.merges import Merge
from netweight.jobs.lineage.relation import Relation, relate
from netweight.jobs.lineage.result import LineageResult
from netweight.run.blas import blas_threads

EXPECTED = {
    "finetune_near": {"fine-tune"}, "continued": {"fine-tune"}, "finetune_frozen": {"fine-tune"}, "dpo": {"fine-tune"},
    "finetune_far": {"far training"}, "lora_merged": {"adapter merged"}, "adapter": {"adapter"},
    "abliterated": {"rank-one edit"}, "cast": {"cast", "same values"}, "quantised": {"quantised"},
    "dequantised": {"quantised"}, "pruned_depth": {"layers changed"}, "stacked": {"layers changed"},
    "pruned_width": {"narrowed"}, "upcycled": {"upcycled"}, "vocabulary_extended": {"vocabulary changed", "fine-tune"},
    "disguised": {"reordered", "rescaled", "undecided"},
}  # fmt: skip
"""What the relation of a child to its parent is to be called; a copy with a rotated stream is left to the full test."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--all-pairs", action="store_true")
    asked = parser.parse_args()
    truth = {one["name"]: one for one in json.loads((asked.zoo / "truth.json").read_text(encoding="utf-8"))["models"]}
    begun = time.monotonic()
    result = netweight.lineage([str(asked.zoo / name) for name in truth])
    print(f"{len(result.sketches)} models, {len(result.relations)} pairs tested, {time.monotonic() - begun:.1f} s")
    faults = [f"left out: {one.ref}: {one.reason}" for one in result.failed]
    faults += relations(truth, result)
    faults += merges(truth, result)
    numbers = independent(truth, result, every=asked.all_pairs)
    faults += numbers.pop("faults")
    faults += disguises(truth, asked.zoo)
    for fault in faults:
        print(f"WRONG {fault}")
    if asked.json:
        asked.json.write_text(json.dumps(numbers | {"faults": faults}, indent=1), encoding="utf-8")
    return int(bool(faults))


def relations(truth: dict[str, Any], result: LineageResult) -> list[str]:
    """Of every parent and child: the relation's name, its direction, and its layers."""
    faults = []
    confusion: Counter[tuple[str, str]] = Counter()
    directions: Counter[str] = Counter()
    for model in truth.values():
        if model["kind"] == "merged":
            continue
        for parent in model["parents"]:
            found = result.relation(parent, model["name"])
            said = "not tested" if found is None else found.relation
            confusion[model["kind"], said] += 1
            if said not in EXPECTED[model["kind"]]:
                faults.append(f"{model['name']} from {parent} ({model['kind']}): {said}")
            if found is not None:
                directions[_direction(found, parent)] += 1
                if _direction(found, parent) == "wrong":
                    faults.append(f"{model['name']} from {parent}: the direction is wrong: {found.direction.reason}")
                if model["layers"] and (found.layers is None or list(found.layers.of) != model["layers"]):
                    faults.append(
                        f"{model['name']}: layers {found.layers and found.layers.of}, {model['layers']} in truth"
                    )
    above = _ancestors(truth)
    for found in result.relations:
        directed = found.related and found.direction.known and found.b in truth
        if directed and found.a not in above[found.b] and not _equal_to(found, above, truth):
            faults.append(f"{found.a} -> {found.b} ({found.relation}): {found.a} is none of its ancestors")
    print("\nrelation of a child to its parent")
    for (kind, said), count in sorted(confusion.items()):
        mark = "" if said in EXPECTED[kind] else "  <- wrong"
        print(f"  {kind:20} {said:20} {count:4}{mark}")
    print(f"  directions: {dict(directions)}")
    return faults


def _direction(found: Relation, parent: str) -> str:
    if not found.direction.known:
        return "open"
    return "right" if found.a == parent else "wrong"


def _ancestors(truth: dict[str, Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}

    def of(name: str) -> set[str]:
        if name not in found:
            parents = [*truth[name]["parents"], *([truth[name]["base"]] if truth[name]["base"] else [])]
            found[name] = set(parents).union(*(of(parent) for parent in parents))
        return found[name]

    for name in truth:
        of(name)
    return found


def _equal_to(found: Relation, above: dict[str, set[str]], truth: dict[str, Any]) -> bool:
    """Whether the earlier model has the values of an ancestor: a cast of it that lost nothing, or its disguise."""
    same = {"cast", "vocabulary_extended", "quantised", "dequantised", "disguised"}
    return truth[found.a]["kind"] in same and set(truth[found.a]["parents"]) <= above[found.b]


def merges(truth: dict[str, Any], result: LineageResult) -> list[str]:
    """Parents and weights of every merge, and no merge that is none."""
    faults, worst = [], 0.0
    found = {merge.model: merge for merge in result.merges}
    for name, merge in found.items():
        if truth[name]["kind"] != "merged":
            faults.append(f"{name}: no merge, and said to be one of {list(merge.parents)}")
    for model in truth.values():
        if model["kind"] != "merged":
            continue
        merge = found.get(model["name"])
        if merge is None or set(merge.parents) != set(model["parents"]):
            across = model["family"] is None
            said = None if merge is None else list(merge.parents)
            print(
                f"  {model['name']}: merge of {said}, in truth of {model['parents']}"
                + (" (two families)" if across else "")
            )
            if not across:
                faults.append(f"{model['name']}: merge of {said}, in truth of {model['parents']}")
            continue
        off = _off(model, merge)
        worst = max(worst, off)
        if off > 0.02:
            faults.append(
                f"{model['name']}: weights {[round(w, 3) for w in merge.weights]}, {model['weights']} in truth"
            )
    count = sum(model["kind"] == "merged" for model in truth.values())
    print(f"\nmerges: {len(found)} found of {count}, weights at most {worst:.3f} off")
    return faults


def _off(model: dict[str, Any], merge: Merge) -> float:
    """The largest error of a weight; TIES takes the mean of parents, so its weights are compared as shares."""
    given = dict(zip(model["parents"], model["weights"], strict=True))
    total = sum(given.values()) if merge.averaged else 1.0
    return max(abs(w - given[p] / total) for w, p in zip(merge.weights, merge.parents, strict=True))


def independent(truth: dict[str, Any], result: LineageResult, *, every: bool) -> dict[str, Any]:
    """Models of two families: false relations, and how the p-values spread."""
    families = _families(truth)
    sketches = {sketch.name: sketch for sketch in result.sketches}
    pairs = [(a, b) for a, b in combinations(truth, 2) if not families[a] & families[b]]
    tested = {frozenset((r.a, r.b)): r for r in result.relations}
    found: list[Relation] = []
    with blas_threads(1):
        for a, b in pairs:
            known = tested.get(frozenset((a, b)))
            if known is not None:
                found.append(known)
            elif every and a in sketches and b in sketches:
                found.append(relate(sketches[a], sketches[b]))
    wrong = [r for r in found if r.related]
    # one test a pair of families: descendants of one base give nearly the same p-values
    roots = [r for r in found if truth[r.a]["kind"] == truth[r.b]["kind"] == "base" and r.evidence.blocks]
    values = np.array([10**r.evidence.log10_p for r in found if r.evidence.blocks])
    own = np.array([10**r.evidence.log10_p for r in roots])
    uniform = {"all": float(kstest(values, "uniform").pvalue) if len(values) else None,
               "bases": float(kstest(own, "uniform").pvalue) if len(own) else None}  # fmt: skip
    print(f"\nindependent pairs: {len(pairs)}, {len(found)} tested, {len(wrong)} called related")
    if len(values):
        print(f"  least p {values.min():.2g}; Kolmogorov-Smirnov p of {len(own)} pairs of bases {uniform['bases']},"
              f" of all, many of which are nearly the same, {uniform['all']:.2g}")  # fmt: skip
        print(f"  shares below 0.01, 0.05, 0.5: {[round(float((values < x).mean()), 4) for x in (0.01, 0.05, 0.5)]}")
    unsaid = Counter(r.relation for r in found)
    print(f"  {dict(unsaid)}")
    faults = [f"{r.a} and {r.b} are independent, and called {r.relation} ({r.sure})" for r in wrong]
    return {"pairs": len(pairs), "tested": len(found), "false": len(wrong), "ks": uniform, "faults": faults}


def _families(truth: dict[str, Any]) -> dict[str, set[str]]:
    """The independent bases that a model comes from."""
    above = _ancestors(truth)
    return {name: {one for one in (name, *above[name]) if truth[one]["kind"] == "base"} for name in truth}


def disguises(truth: dict[str, Any], zoo: Path) -> list[str]:
    """The full test of every disguised model against its parent, and against another model of the same shape."""
    faults = []
    bases = [name for name, one in truth.items() if one["kind"] == "base"]
    print("\nthe full test of disguised models")
    for model in truth.values():
        if model["kind"] != "disguised":
            continue
        parent = model["parents"][0]
        own = next(base for base in bases if parent.startswith(base))
        other = next((base for base in bases if base[:3] == own[:3] and base != own), None)
        found = netweight.confirm(zoo / parent, zoo / model["name"])
        against = None if other is None else netweight.confirm(zoo / other, zoo / model["name"])
        what = ", ".join(model["detail"]["disguises"])
        own_said = f"{found.how:10} 1e{found.log10_p:.0f}, {found.share:.2f} of units"
        print(f"  {model['name']:24} {what:30.30} {own_said:34} {_said(other, against)}")
        if found.verdict != "one start":
            faults.append(f"--confirm {parent} {model['name']}: {found.verdict} (1e{found.log10_p:.1f}, {what})")
        if against is not None and against.verdict == "one start":
            faults.append(f"--confirm {other} {model['name']}: independent, and called one start")
    return faults


def _said(other: str | None, against: Confirmation | None) -> str:
    return "" if against is None else f"{other}: {against.verdict}, {against.share:.2f}"


if __name__ == "__main__":
    sys.exit(main())
