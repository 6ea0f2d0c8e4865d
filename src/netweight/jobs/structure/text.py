"""structure_summary.txt: a model's structure in lines for people, equal neighbouring layers in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from netweight.errors import printable

__all__ = ["LAYER_HEADINGS", "layer_rows", "spans", "summary_parts", "summary_text"]

LAYER_HEADINGS = ("layers", "parameters", "attention", "mlp", "norm", "heads/kv", "inner")

_LISTED = 12


def summary_text(structure: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> str:
    """The whole text; names from the checkpoint are made harmless."""
    before, layers, after = summary_parts(structure, comparison)
    return "\n".join([*before, *layers, *after]) + "\n"


def summary_parts(
    structure: Mapping[str, Any], comparison: Mapping[str, Any] | None
) -> tuple[list[str], list[str], list[str]]:
    """The lines before the table of layers, its own, and those after it."""
    title = printable(structure["model_name"])
    lines = [title, "=" * min(78, len(title) or 1), ""]
    lines += _totals(structure, comparison)
    before, lines = [*lines, ""], []
    if comparison:
        lines += ["", *_comparison(comparison)]
    if "slicegpt" in structure:
        lines += ["", *_slices(structure["slicegpt"])]
    if "zeros" in structure:
        lines += ["", *_zeros(structure)]
    if structure["other"]:
        lines += ["", "names that no table knows:"]
        lines += [
            f"  {printable(row['pattern'])}: {row['tensors']} tensors, {row['params']:,}, counted under"
            f" {printable(row['place'])}"
            for row in structure["other"][:_LISTED]
        ]
        lines += _more(len(structure["other"]))
    notes = [*structure["notes"], *(comparison["notes"] if comparison else ())]
    if notes:
        lines += ["", *(f"note: {printable(note, 400)}" for note in notes[:_LISTED]), *_more(len(notes))]
    return before, _layers(structure), lines


def _more(count: int) -> list[str]:
    return [f"  and {count - _LISTED} more in model_structure.json"] if count > _LISTED else []


def _totals(structure: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[str]:
    tied = structure["tied"]
    summary = structure["layer_summary"]
    rows = [
        ("type", f"{structure['model_type']} ({structure['format']}, {printable(structure['family'])})"),
        ("parameters", f"{structure['total_params']:,}"),
    ]
    if tied["total_params_counted_twice"] != structure["total_params"]:
        rows.append(("with ties twice", f"{tied['total_params_counted_twice']:,}"))
    if structure["active_params"] not in (None, structure["total_params"]):
        rows.append(("active per token", f"{structure['active_params']:,}"))
    rows += [
        ("embedding", f"{structure['embedding_params']:,}"),
        ("head", f"{structure['lm_head_params']:,}" + _head(tied["head_is"])),
        ("layers", f"{summary['num_layers']}, {summary['total_layer_params']:,} parameters"),
    ]
    rows += [(key, f"{summary[key]:,}") for key in ("attention", "mlp", "norm", "rotation", "other") if summary[key]]
    rows += [(f"tower {printable(name)}", f"{row['parameters']:,}") for name, row in structure["towers"].items()]
    for label, key in (("norms outside", "norm_params"), ("other outside", "other_params"), ("buffers", "buffers")):
        if structure[key]:
            rows.append((label, f"{structure[key]:,}"))
    rows.append(("bytes", f"{structure['bytes']:,}"))
    if comparison:
        rows.append(("base", printable(comparison["original_name"])))
        rows.append(("reduced by", _reduced(comparison["total_params"])))
    return [f"{label:<17}{value}" for label, value in rows]


def _head(head_is: str | None) -> str:
    return f" (it is {printable(head_is)})" if head_is is not None else ""


def _reduced(level: Mapping[str, Any]) -> str:
    ratio = level["reduction_ratio"]
    share = "" if ratio is None else f" ({100 * ratio:.2f}%)"
    return f"{level['reduced']:,} of {level['original']:,}{share}"


def _layers(structure: Mapping[str, Any]) -> list[str]:
    lines = [LAYER_HEADINGS, *layer_rows(structure)]
    return [f"{a:<10}{b:>15}{c:>14}{d:>15}{e:>9}  {f:<8}  {g}" for a, b, c, d, e, f, g in lines]


def layer_rows(structure: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells under LAYER_HEADINGS, equal neighbouring layers in one row."""
    runs: list[tuple[tuple[Any, ...], str, list[int]]] = []
    for layer in structure["layers"]:
        stack = layer.get("stack", "")
        attention = layer["attention"]
        cross = layer.get("cross_attention", {}).get("total", 0)
        heads = f"{_dashed(attention['num_heads'])}/{_dashed(attention['num_kv_heads'])}"
        inner = layer["mlp"]["intermediate_size"] or layer["mlp"].get("experts", {}).get("intermediate_size")
        count = layer["mlp"].get("experts", {}).get("count")
        shown = f"{count} x {_dashed(inner)}" if count else _dashed(inner)
        form = (
            layer["total"],
            attention["total"] + cross,
            layer["mlp"]["total"],
            layer["norm"],
            heads,
            shown,
            layer["is_zero_layer"],
        )
        last = runs[-1] if runs else None
        if last and last[0] == form and last[1] == stack and layer["layer_idx"] == last[2][-1] + 1:
            last[2].append(layer["layer_idx"])
        else:
            runs.append((form, stack, [layer["layer_idx"]]))
    for (total, attention, mlp, norm, heads, inner, is_zero), stack, numbers in runs:
        span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        label = f"{printable(stack)}.{span}" if stack else span
        zero = "  zero layer" if is_zero else ""
        yield label, f"{total:,}", f"{attention:,}", f"{mlp:,}", f"{norm:,}", heads, f"{inner}{zero}"


def _dashed(value: int | None) -> str:
    return "-" if value is None else str(value)


def _comparison(comparison: Mapping[str, Any]) -> list[str]:
    lines = [f"against {printable(comparison['original_name'])}"]
    for label, key in (("layers", "layer_params"), ("embedding", "embedding_params"), ("head", "lm_head_params")):
        lines.append(f"  {label:<12}{_reduced(comparison[key])}")
    if "total_params_without_rotation" in comparison:
        lines.append(f"  without rotations: {_reduced(comparison['total_params_without_rotation'])}")
    if "nonzero_params" in comparison:
        lines.append(f"  counting only what is not zero: {_reduced(comparison['nonzero_params'])}")
    if comparison["removed_layers"]:
        lines.append(f"  layers gone: {spans(comparison['removed_layers'])}")
    if comparison["added_layers"]:
        lines.append(f"  layers more than the base has: {len(comparison['added_layers'])}")
    if comparison["unknown_layers"]:
        lines.append(f"  layers that cannot be told apart: {len(comparison['unknown_layers'])}")
    changed = [row for row in comparison["layers"] if row["total"]["reduced"] and row["total"]["pruned"]]
    runs: dict[str, list[int | str]] = {}
    for row in changed:
        reductions = (
            f"{_reduced(row['total'])}; attention {_reduced(row['attention']['total'])};"
            f" mlp {_reduced(row['mlp']['total'])}"
        )
        label = f"{row['stack']}.{row['layer_idx']}" if "stack" in row else row["layer_idx"]
        runs.setdefault(reductions, []).append(label)
    lines += [f"  layer {spans(labels)}: {reductions}" for reductions, labels in list(runs.items())[:_LISTED]]
    if len(runs) > _LISTED:
        lines.append(f"  and {sum(map(len, list(runs.values())[_LISTED:]))} more layers in model_comparison.json")
    return lines


def spans(labels: Iterable[int | str]) -> str:
    """Numbers of layers in a line, runs of them as `3-7`; labels of a stack as they are."""
    parts: list[str] = []
    run: list[int] = []
    for label in [*labels, None]:
        if isinstance(label, int) and run and label == run[-1] + 1:
            run.append(label)
            continue
        if run:
            parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
        run = [label] if isinstance(label, int) else []
        if isinstance(label, str):
            parts.append(printable(label))
    return ", ".join(parts)


def _slices(slices: Mapping[str, Any]) -> list[str]:
    whole, turned = slices["total_params_without_rotation"], slices["rotation_params"]
    width = _dashed(slices["embedding_dimension"])
    lines = [f"SliceGPT: {whole:,} parameters and {turned:,} in shortcut_Q matrices; embedding width {width}"]
    keys = ("attention_input", "attention_output", "mlp_input", "mlp_output")
    runs: list[tuple[str, list[int]]] = []
    for layer in slices["layers"]:
        form = ", ".join(f"{key} {layer[key]}" for key in keys if key in layer)
        if runs and runs[-1][0] == form:
            runs[-1][1].append(layer["layer_idx"])
        else:
            runs.append((form, [layer["layer_idx"]]))
    for form, numbers in runs:
        span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        lines.append(f"  layer {span}: {form}")
    return lines


def _zeros(structure: Mapping[str, Any]) -> list[str]:
    zeros = structure["zeros"]
    lines = [f"exact zeros: {zeros['zeros']:,} of {zeros['elements']:,} elements ({100 * zeros['zero_share']:.2f}%)"]
    if zeros["all_zero_layers"]:
        lines.append(f"  layers of zeros only: {spans(zeros['all_zero_layers'])}")
    for layer in structure["layers"]:
        counts = layer["zeros"]
        if counts["zeros"]:
            label = f"{printable(layer['stack'])}.{layer['layer_idx']}" if "stack" in layer else layer["layer_idx"]
            lines.append(
                f"  layer {label}: {100 * counts['zero_share']:.2f}% zeros, {counts['zero_rows']} rows and"
                f" {counts['zero_columns']} columns of nothing else"
            )
    return lines
