"""How models are related, as a page shows it: a tree whose edges open their evidence, how alike models are, and the
layers of those that were cut or stacked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netweight.columns import Column
from netweight.jobs.lineage.columns import COLUMNS
from netweight.page.section import Branch, Section, Square, Table

__all__ = ["section_of_lineage"]

_PAIR = Column("pair", "", "the two models", "text")
_MOST = 120  # models of which a picture of likeness can be read
_SAID = ("relation", "detail", "direction", "reason", "log10_p", "blocks", "units", "permutations", "detectable",
         "elements", "equal_percentage", "drift", "cosine")  # fmt: skip


def section_of_lineage(title: str, held: Mapping[str, Any]) -> Section:
    """The section of what `LineageResult.to_dict` gives."""
    relations = held["relations"]
    columns = (_PAIR, *COLUMNS)
    rows = [
        (f"{one['a']} - {one['b']}", *(_cell(one, column) for column in COLUMNS))
        for one in sorted(relations, key=lambda one: (one["log10_p"] is None, one["log10_p"] or 0))
    ]
    names = [name for family in held["families"] for name in family]
    related = sum(one["relation"] not in ("unrelated", "undecided") for one in relations)
    card = [
        ("models", str(len(names))),
        ("families", str(sum(len(family) > 1 for family in held["families"]))),
        ("pairs tested, related", f"{len(relations)}, {related}"),
        ("netweight", str(held["netweight_version"])),
    ]
    return Section(
        "lineage",
        title,
        columns,
        rows,
        "pair",
        card=card,
        notes=[f"{model['name']}: {note}" for model in held["models"] for note in model["notes"]],
        skipped=[(one["ref"], one["reason"]) for one in held["failed"]],
        shown=("pair", "relation", "directed", "log10_p", "drift", "equal_percentage", "detail"),
        order="log10_p",
        square=_likeness(names, relations),
        tables=[*_merges(held["merges"]), *_checks(held["checks"]), *_layer_maps(relations)],
        tree=_tree(held),
    )


def _cell(one: Mapping[str, Any], column: Column) -> Any:
    if column.name == "detail":
        return one["label"]
    value = one[column.name]
    return value if not isinstance(value, Mapping) else None


def _likeness(names: Sequence[str], relations: Sequence[Mapping[str, Any]]) -> Square | None:
    """1 less the drift of related models, 0 without a relation, None where a pair was not tested."""
    if not 1 < len(names) <= _MOST:
        return None
    at = {name: i for i, name in enumerate(names)}
    values: list[list[float | None]] = [[1.0 if i == j else None for j in range(len(names))] for i in range(len(names))]
    for one in relations:
        i, j = at[one["a"]], at[one["b"]]
        known = one["relation"] not in ("unrelated", "undecided") and one["drift"] is not None
        values[i][j] = values[j][i] = max(0.0, 1 - one["drift"]) if known else 0.0
    return Square("likeness", names, values)


def _tree(held: Mapping[str, Any]) -> list[Branch]:
    """Every family as a tree: from the model that most edges lead away from, along all edges."""
    found = {(one["a"], one["b"]): one for one in held["relations"]}
    beside: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for edge in held["edges"]:
        beside.setdefault(edge["a"], []).append((edge["b"], edge))
        beside.setdefault(edge["b"], []).append((edge["a"], edge))
    trees = []
    for family in held["families"]:
        into = {edge["b"] for edge in held["edges"] if edge["directed"]}
        first = max(family, key=lambda name: (name not in into, len(beside.get(name, ()))))
        seen = {first}

        def below(name: str, seen: set[str] = seen) -> list[Branch]:
            branches = []
            new = [(other, edge) for other, edge in beside.get(name, ()) if other not in seen]
            seen.update(other for other, _ in new)
            for other, edge in new:
                relation = found.get((edge["a"], edge["b"])) or found.get((edge["b"], edge["a"]))
                branches.append(_branch(other, edge, relation, below(other)))
            return branches

        trees.append(Branch(first, below=below(first)))
    return trees


def _branch(name: str, edge: Mapping[str, Any], relation: Mapping[str, Any] | None, below: Sequence[Branch]) -> Branch:
    known = "from the one above" if edge["b"] == name else "the one above is from it"
    arrow = known if edge["directed"] else "direction open"
    details: list[tuple[str, str]] = [("from", edge["a"]), ("to", edge["b"])]
    rows: list[list[str]] = []
    if relation is not None:
        said = {**relation, "detail": relation["label"]}
        details += [(word, _text(said[word])) for word in _SAID if said.get(word) is not None]
        details.append(("seed of the permutations", str(relation["seed"])))
        rows = [["block", "p", "z", "units", "permutations", "mean cosine"]]
        rows += [
            [t["block"], f"{t['p']:.3g}", f"{t['z']:.1f}", str(t["units"]), str(t["permutations"]),
             f"{t['mean_cosine']:.3f}"] for t in relation["tests"]
        ]  # fmt: skip
    return Branch(name, f"{edge['label']} ({arrow})", details, rows, below)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _merges(merges: Sequence[Mapping[str, Any]]) -> list[Table]:
    rows = [
        [
            merge["model"],
            ", ".join(f"{w:.3f} {name}" for w, name in zip(merge["weights"], merge["parents"], strict=True)),
            merge["base"] or "",
            "linear" if merge["exact"] else "single elements",
            f"{merge['residual']:.2g}",
        ]
        for merge in merges
    ]
    tables = [Table("merges", ["model", "weights", "base", "how", "residual"], rows)] if rows else []
    for merge in merges:
        if merge["by_layer"]:
            lines = [[group, *(f"{w:.3f}" for w in weights)] for group, weights in merge["by_layer"].items()]
            tables.append(Table(f"weights by layer: {merge['model']}", ["layer", *merge["parents"]], lines))
    return tables


def _checks(checks: Sequence[Mapping[str, Any]]) -> list[Table]:
    rows = [[one["model"], one["named"], one["where"], one["verdict"], one["reason"]] for one in checks]
    return [Table("claims", ["model", "claims", "where", "verdict", "because"], rows)] if rows else []


def _layer_maps(relations: Sequence[Mapping[str, Any]]) -> list[Table]:
    tables = []
    for one in relations:
        layers = one["layers"]
        if layers is None or one["relation"] != "layers changed":
            continue
        rows = [
            [str(own), "none" if layer is None else str(layer), f"{score:.1f}"]
            for own, layer, score in zip(layers["layers_b"], layers["of_a"], layers["scores"], strict=True)
        ]
        headings = [f"layer of {one['b']}", f"layer of {one['a']}", "standard deviations"]
        tables.append(Table(f"layers: {one['a']} and {one['b']}", headings, rows))
    return tables
