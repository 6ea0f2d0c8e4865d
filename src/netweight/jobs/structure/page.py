"""What models are made of, as a page shows it: the parts of every layer, and what of the base's is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from netweight.columns import Column
from netweight.jobs.pages import section_of
from netweight.output.table import Row
from netweight.page.section import Bars, Section, Table

__all__ = ["section_of_structures"]

_COLUMNS = (
    Column("model", "", "the model's name in the results", "text"),
    Column("param", "", "a part of a layer, or of the model", "text"),
    Column("layer", "", "the layer's number: the base's where there is one", "integer"),
    Column("role", "", "which part: q_proj, gate_proj, norm, embedding ...", "text"),
    Column("elements", "elements", "of the part", "integer"),
    Column("original", "elements", "of the base's part", "integer"),
    Column("removed", "elements", "that the base has more", "integer"),
    Column("reduction_ratio", "", "removed / original; empty where the base has none of it", "number"),
    Column("layer_idx", "", "the layer's number in the model, empty where it is gone", "integer"),
    Column("matched_by", "", "how the base's layer was found: name, content, similar or position", "text"),
)

_NOT_PARTS = frozenset({
    "total", "type", "bias", "count", "num_heads", "num_kv_heads", "intermediate_size", "per_expert",
})  # fmt: skip
_Pair = tuple[Mapping[str, Any], Mapping[str, Any] | None]


def section_of_structures(
    title: str, models: Sequence[_Pair], tables: Sequence[Table] = (), skipped: Sequence[tuple[str, str]] = ()
) -> Section:
    """The section of models, each the `structure` and the `comparison` (None without a base) of its JSON files."""
    names = [str(structure["model_name"]) for structure, _ in models]
    rows: list[Row] = []
    stacks: list[str] = []
    card, notes, bars, maps = [], [], [], []
    for name, (structure, comparison) in zip(names, models, strict=True):
        for stack, *row in _parts(structure) if comparison is None else _compared(comparison):
            stacks.append(stack)
            rows.append((name, *row))
        before = f"{name}: " if len(models) > 1 else ""
        card += [(before + what, said) for what, said in _card(structure, comparison)]
        said = (*structure.get("notes", ()), *(comparison or {}).get("notes", ()), *_in_no_row(comparison or {}))
        notes += [f"{before}{note}" for note in said]
        bars.append(_by_part(name, structure))
        maps += [] if comparison is None else [_layer_map(name, comparison)]
    return section_of(
        "structure",
        title,
        _COLUMNS,
        rows,
        first=("reduction_ratio", "removed") if maps else (),
        stacks=stacks,
        card=card,
        notes=notes,
        skipped=skipped,
        models=names,
        bars=bars,
        tables=[*tables, *maps],
    )


def _label(stack: str, number: int, part: str) -> str:
    return f"{stack or 'layer'} {number} {part}"


def _parts(structure: Mapping[str, Any]) -> Iterator[Row]:
    """(stack, param, layer, role, elements ...) of a model without a base."""
    for role, key in (("embedding", "embedding_params"), ("lm_head", "lm_head_params")):
        if structure[key]:
            yield ("", f"the {role}", None, role, structure[key], None, None, None, None, None)
    for layer in structure["layers"]:
        number, stack = layer["layer_idx"], layer.get("stack", "")
        for part, count in _counts(layer):
            yield (stack, _label(stack, number, part), number, part, count, None, None, None, number, None)


def _counts(layer: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The parts of a layer that have elements."""
    groups = [("", layer["attention"]), ("cross_", layer.get("cross_attention", {})), ("", layer["mlp"])]
    for before, group in groups:
        for part, count in group.items():
            if part in _NOT_PARTS:
                continue
            total = count.get("total", 0) if isinstance(count, Mapping) else count
            if isinstance(total, int) and total:
                yield f"{before}{part}", total
    if layer["norm"]:
        yield "norm", layer["norm"]
    if rotation := sum(layer.get("rotation", {}).values()):
        yield "rotation", rotation


def _compared(comparison: Mapping[str, Any]) -> Iterator[Row]:
    """(stack, param, layer, role, elements ...) beside the base's."""
    for role, key in (("embedding", "embedding_params"), ("lm_head", "lm_head_params")):
        if comparison[key]["original"] or comparison[key]["pruned"]:
            yield ("", f"the {role}", None, role, *_numbers(comparison[key]), None, None)
    for layer in comparison["layers"]:
        number, stack = layer["layer_idx"], layer.get("stack", "")
        place = layer.get("pruned_layer_idx"), layer.get("matched_by")
        groups = [("", layer["attention"]), ("cross_", layer.get("cross_attention", {})), ("", layer["mlp"])]
        parts = [
            (f"{before}{part}", held) for before, group in groups for part, held in group.items() if part != "total"
        ]
        for part, held in [*parts, ("norm", layer["norm"])]:
            if held["original"] or held["pruned"]:
                yield (stack, _label(stack, number, part), number, part, *_numbers(held), *place)


def _numbers(held: Mapping[str, Any]) -> tuple[Any, ...]:
    """(elements, original, removed, reduction_ratio)"""
    return held["pruned"], held["original"], held["reduced"], held["reduction_ratio"]


def _card(structure: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    summary = structure["layer_summary"]
    card = [("parameters", f"{structure['total_params']:,}"), ("layers", f"{summary['num_layers']:,}")]
    if "zeros" in structure:
        card.append(("share of exact zeros", f"{structure['zeros']['zero_share']:.6g}"))
    if comparison is not None:
        total, layers = comparison["total_params"], comparison["num_layers"]
        removed = ", ".join(map(str, comparison.get("removed_layers", ())))
        card.append(
            ("base", f"{comparison['original_name']}, {total['original']:,} parameters, {layers['original']} layers")
        )
        card.append(("removed", f"{total['reduced']:,} parameters"))
        card += [("layers of the base that are gone", removed)] if removed else []
    return card


def _in_no_row(comparison: Mapping[str, Any]) -> Iterator[str]:
    """Layers of a model that are none of its base's: rows are of the base's layers."""
    if added := comparison.get("added_layers"):
        labels = [
            str(row["layer_idx"]) + ("" if row["repeats"] is None else f" (a repeat of {row['repeats']})")
            for row in added
        ]
        yield f"layers {', '.join(labels)} are added to the base's, and in no row here"
    if unknown := comparison.get("unknown_layers"):
        yield f"layers {', '.join(map(str, unknown))} could not be told apart, and are in no row here"


def _by_part(name: str, structure: Mapping[str, Any]) -> Bars:
    summary = structure["layer_summary"]
    parts = {"embedding": structure["embedding_params"]}
    parts |= {part: summary[part] for part in ("attention", "mlp", "norm", "rotation", "other") if summary.get(part)}
    parts["lm_head"] = structure["lm_head_params"]
    return Bars("parameters", list(parts), list(parts.values()), name)


def _layer_map(name: str, comparison: Mapping[str, Any]) -> Table:
    """Which layer of the base each layer is."""
    rows = [
        [str(row["layer_idx"]), "" if row["base_layer"] is None else str(row["base_layer"]), row["matched_by"] or "",
         "" if row["similarity"] is None else f"{row['similarity']:.6g}"]
        for row in comparison.get("layer_map", ())
    ]  # fmt: skip
    return Table("layerMap", ("layer", "layer of the base", "matched by", "similarity"), rows, name)
