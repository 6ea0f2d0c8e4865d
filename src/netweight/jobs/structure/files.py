"""The files of `structure`: those in each model's own folder, and those that gather a folder of models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netweight.checkpoint.config import read_json_object
from netweight.jobs.structure.text import summary_text
from netweight.output.folder import ResultFolder

__all__ = ["COMPARISON", "STRUCTURE", "has_analysis", "model_folder", "read_earlier", "write_model"]

STRUCTURE = "model_structure.json"

COMPARISON = "model_comparison.json"

SUMMARY = "structure_summary.txt"

_LARGEST = 256 << 20  # bytes of an earlier result


def model_folder(folder: Path, inputs: Sequence[Path] = (), *, compared: bool) -> ResultFolder:
    """The folder of one model's files, not entered yet; `compared`: with a base."""
    planned = [STRUCTURE, SUMMARY, *([COMPARISON] if compared else [])]
    return ResultFolder(folder, inputs, "structure", planned=planned)


def write_model(
    folder: Path, structure: Mapping[str, Any], comparison: Mapping[str, Any] | None, inputs: Sequence[Path] = ()
) -> tuple[str, ...]:
    """Put one model's files into `folder` in one step; `inputs` are models that it must not be. Returns notes. Raises
    OutputError, JobError, BusyError.
    """
    with model_folder(folder, inputs, compared=comparison is not None) as results:
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
            lines.append('  "layers": [\n' + ",\n".join(f"    {encode(layer)}" for layer in field) + "\n  ]")
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
    """(structure, comparison) that an earlier run left in `folder`, None where missing; raises FormatError for
    what is no JSON object, ReadError where a file cannot be read.
    """
    earlier = [
        read_json_object(folder / name, _LARGEST) if (folder / name).is_file() else None
        for name in (STRUCTURE, COMPARISON)
    ]
    return earlier[0], earlier[1]
