"""The files of `structure`: those in each model's own folder, and those that gather a folder of models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.config import read_json_object
from netweight.jobs.structure_rows import LAYER_COLUMNS, SUMMARY_COLUMNS, layer_cells
from netweight.jobs.structure_text import summary_text
from netweight.output.folder import ResultFolder
from netweight.output.table import Row, write_csv, write_json, write_parquet

if TYPE_CHECKING:
    from netweight.jobs.structure_many import Structures
    from netweight.jobs.structure_member import ModelResult

__all__ = ["COMPARISON", "STRUCTURE", "has_analysis", "read_earlier", "summary_cells", "write_many", "write_model"]

STRUCTURE = "model_structure.json"
COMPARISON = "model_comparison.json"
SUMMARY = "structure_summary.txt"
_LARGEST = 256 << 20  # bytes of an earlier result


def write_model(
    folder: Path, structure: Mapping[str, Any], comparison: Mapping[str, Any] | None, inputs: Sequence[Path] = ()
) -> tuple[str, ...]:
    """Put one model's files into `folder` in one step; `inputs` are models that it must not be. Returns notes. Raises
    OutputError, JobError, BusyError.
    """
    with ResultFolder(folder, inputs, "structure") as results:
        _write_lines(results.stage / STRUCTURE, structure)
        if comparison is not None:
            _write_lines(results.stage / COMPARISON, comparison)
        text = summary_text(structure, comparison)
        (results.stage / SUMMARY).write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        return results.commit()


def _write_lines(path: Path, value: Mapping[str, Any]) -> None:
    """`value` as JSON, a line for each field and for each of its layers: json's own indenting takes most of a run."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    lines = []
    for key, field in value.items():
        if key == "layers" and field:
            lines.append('  "layers": [\n' + ",\n".join(f"    {encode(each)}" for each in field) + "\n  ]")
        else:
            lines.append(f"  {encode(key)}: {encode(field)}")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    # A lone surrogate becomes \\udcXX, which is just how JSON spells it.
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def has_analysis(folder: Path) -> bool:
    """Whether an earlier run left anything in `folder`."""
    try:
        return (folder / STRUCTURE).is_file()
    except OSError:  # it may not be looked into
        return False


def read_earlier(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(structure, comparison) that an earlier run left in `folder`, None where there is none; raises FormatError for
    what is no JSON object, ReadError where it cannot be read.
    """
    found = [
        read_json_object(folder / name, _LARGEST) if (folder / name).is_file() else None
        for name in (STRUCTURE, COMPARISON)
    ]
    return found[0], found[1]


def write_many(result: Structures, folder: Path) -> None:
    """Write the gathered files into the empty `folder`; raises OSError where the disk refuses."""
    from netweight.output.structure_plots import parameters_by_part, reduction_by_layer

    write_json(folder / "batch_analysis_results.json", result.to_dict())
    write_json(folder / "models_summary.json", result.summary())
    write_csv(folder / "models_summary.csv", SUMMARY_COLUMNS, [summary_cells(m) for m in result.models])
    rows = [layer_cells(m.name, row) for m in result.models if m.row for row in m.row.rows]
    write_csv(folder / "structure.csv", LAYER_COLUMNS, rows)
    inputs = [{"name": m.name, "path": m.path, "type": m.kind} for m in result.models]
    write_parquet(folder / "structure.parquet", LAYER_COLUMNS, rows, inputs=inputs)
    parameters_by_part(folder / "parameters_by_part.png", *_parts(result))
    if result.base_layers:
        reduction_by_layer(folder / "reduction_by_layer.png", *_reductions(result))


def summary_cells(model: ModelResult) -> Row:
    """One model under SUMMARY_COLUMNS."""
    row = model.row
    if row is None:
        return (model.name, model.kind, model.status, *([None] * 18), model.path, model.error)
    removed = None if row.removed is None else " ".join(str(label) for label in row.removed)
    return (
        model.name, model.kind, model.status, row.total, row.layers, row.layer_params, row.embedding, row.lm_head,
        row.attention, row.mlp, row.norm, row.rotation, row.active, row.buffers, row.bytes, row.zero_layers,
        row.zero_share, row.original, row.reduction_ratio, removed, row.disagreements, model.path, model.error,
    )  # fmt: skip


def _parts(result: Structures) -> tuple[list[str], list[dict[str, int]]]:
    """(names, elements by part) of the base and of every model that was analysed."""
    names, parts = [], []
    if result.base_row is not None:
        names.append(f"{result.base_name} (base)")
        parts.append(_by_part(result.base_row))
    for model in result.models:
        if model.row is not None:
            names.append(model.name)
            parts.append(_by_part(model.row))
    return names, parts


def _by_part(row: Any) -> dict[str, int]:
    if row.attention is None:  # files of the tool that netweight replaces
        parts = {"embedding": row.embedding, "layers": row.layer_params, "lm_head": row.lm_head}
    else:
        parts = {
            "embedding": row.embedding,
            "attention": row.attention,
            "mlp": row.mlp,
            "norm": row.norm,
            "rotation": row.rotation,
            "lm_head": row.lm_head,
        }
    return parts | {"other": row.total - sum(parts.values())}


def _reductions(result: Structures) -> tuple[list[str], list[str], list[list[float | None]]]:
    """(names, labels of the base's layers, reduction ratios)."""
    place = {key: i for i, key in enumerate(result.base_layers)}
    names: list[str] = []
    cells: list[list[float | None]] = []
    for model in result.models:
        if model.row is None or model.row.original is None:
            continue
        line: list[float | None] = [None] * len(place)
        for row in model.row.rows:
            at = place.get((row.stack, row.base_layer)) if row.base_layer is not None else None
            if at is not None:
                line[at] = row.reduction_ratio
        names.append(model.name)
        cells.append(line)
    labels = [f"{stack}.{index}" if stack else str(index) for stack, index in result.base_layers]
    return names, labels, cells
