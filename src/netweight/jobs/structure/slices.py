"""SliceGPT's description of a model: the JSON beside its state dict, checked against the widths of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netweight.checkpoint.config import MAX_CONFIG, read_json_object
from netweight.checkpoint.index import check_inside
from netweight.errors import NetweightError
from netweight.params.block import Block

__all__ = ["Slices", "is_slice_config", "slice_config", "slice_notes", "sliced_dimensions"]

_PER_LAYER = {
    "attention_input": "attention_input_dimensions",
    "attention_output": "attention_output_dimensions",
    "mlp_input": "mlp_input_dimensions",
    "mlp_output": "mlp_output_dimensions",
}
_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_MOST_SAID = 8


@dataclass(frozen=True)
class Slices:
    """`path` is the JSON file (None where old outputs have none), `entries` its values, `problem` why it could not be
    read.
    """

    path: Path | None = None
    entries: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def is_slice_config(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is SliceGPT's description of a sliced model."""
    return any(key in value for key in _PER_LAYER.values()) and "hidden_size" in value


def slice_config(files: Sequence[Path]) -> Slices:
    """The JSON of the same stem beside the weights `files` (else the only sliced one in their folder)."""
    weights = [file for file in files if file.suffix in _TORCH]
    if not weights:
        return Slices()
    folder = weights[0].parent
    twin = weights[0].with_suffix(".json")
    try:
        named = [twin] if twin.is_file() and twin.name != "config.json" else []
        candidates = named or sorted(p for p in folder.glob("*.json") if p.name != "config.json")[:64]
    except OSError as error:
        return Slices(problem=f"{folder}: cannot be listed: {error.strerror}")
    problem = None
    for path in candidates:
        try:
            check_inside(folder, path)
            value = read_json_object(path, MAX_CONFIG)
        except NetweightError as error:
            problem = str(error) if path in named else problem
            continue
        if is_slice_config(value):
            return Slices(path, value)
    return Slices(problem=problem)


def sliced_dimensions(slices: Slices, index: int) -> dict[str, int]:
    """The widths that the JSON declares for one layer."""
    widths = {}
    for key, name in _PER_LAYER.items():
        table = slices.entries.get(name)
        width = table.get(str(index)) if isinstance(table, Mapping) else None
        if isinstance(width, int) and not isinstance(width, bool) and width > 0:
            widths[key] = width
    return widths


def slice_notes(slices: Slices, blocks: Sequence[Block]) -> list[str]:
    """Where the JSON and the shapes disagree, and what is missing."""
    if slices.problem:
        return [f"SliceGPT's JSON cannot be read: {slices.problem}; the widths are those of the tensors"]
    if slices.path is None:
        return ["SliceGPT's JSON is not there; the widths are those of the tensors"]
    notes = []
    for block in blocks:
        for key, width in sliced_dimensions(slices, block.index).items():
            shown = block.dimensions.get(key)
            if shown is not None and shown != width:
                notes.append(
                    f"{slices.path.name} says {_PER_LAYER[key]}[{block.index}] = {width}, the tensors have {shown}"
                )
    layers = slices.entries.get("layers_num")
    if isinstance(layers, int) and not isinstance(layers, bool) and layers != len(blocks):
        notes.append(f"{slices.path.name} says layers_num = {layers}, the names of the tensors count {len(blocks)}")
    more = len(notes) - _MOST_SAID
    return notes[:_MOST_SAID] + ([f"{more} more disagreements with {slices.path.name}"] if more > 0 else [])
