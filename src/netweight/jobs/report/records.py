"""Sections of records: the JSON of scan, info, structure and verify, and the folders of structure and merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from netweight.columns import Column
from netweight.errors import FormatError, NetweightError, OptionError, printable
from netweight.jobs.info.page import section_of_info
from netweight.jobs.merge.record import RECORD
from netweight.jobs.pages import section_of
from netweight.jobs.role_columns import ROLE_COLUMNS, role_cells
from netweight.jobs.scan.result import field_of
from netweight.jobs.structure.files import STRUCTURE, read_earlier
from netweight.jobs.structure.page import section_of_structures
from netweight.jobs.verify.inputs import read_record
from netweight.jobs.verify.page import section_of_verified
from netweight.measures.registry import BY_NAME, SCANNED, find
from netweight.page.section import Section
from netweight.params.role import classify_all

__all__ = ["of_folder", "of_json"]

_MANY = "batch_analysis_results.json"
_FAULTS = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)


def of_folder(path: Path) -> Section | None:
    """Of a folder of merge or structure, None where it is neither; raises FormatError where it is broken."""
    if (path / RECORD).is_file():
        from netweight.jobs.merge.page import section_of_merge

        record = read_record(path / RECORD, "a merge", "merge again")
        return _guarded(
            path / RECORD,
            "record of a merge",
            lambda: section_of_merge(path.name, record, [str(note) for note in record["notes"]]),
        )
    if (path / "lineage.json").is_file():
        return of_json(path / "lineage.json")
    if (path / STRUCTURE).is_file():
        structure, comparison = read_earlier(path)
        return _guarded(path, "structure analysis", lambda: _of_structure(structure, comparison))
    if (path / _MANY).is_file():
        held = read_record(path / _MANY, "structure", "run structure again")
        return _guarded(path / _MANY, "structure analysis", lambda: _of_structures(held))
    return None


def of_json(path: Path) -> Section:
    """Of a JSON file that a command wrote or printed; raises OptionError and FormatError."""
    where = printable(str(path), 300)
    held = read_record(path, "a result", "run the command again")
    if not isinstance(held, dict):
        raise FormatError(f"{where}: expected the JSON of a result, an object, got {type(held).__name__}")
    if "layer_comparisons" in held:
        raise OptionError(f"{where}: the JSON of compare has no shapes; give its Parquet file (--output NAME.parquet)")
    if {"folder", "good", "verdicts"} <= held.keys():
        return _guarded(path, "JSON of verify", lambda: section_of_verified(held))
    if {"ref", "format", "dtypes", "roles"} <= held.keys():
        return _guarded(path, "JSON of info", lambda: section_of_info(held))
    if held.keys() == {"structure", "comparison"}:
        return _guarded(path, "JSON of structure", lambda: _of_structure(held["structure"], held["comparison"]))
    if {"relations", "edges", "sketch_version"} <= held.keys():
        from netweight.jobs.lineage.page import section_of_lineage

        return _guarded(path, "JSON of lineage", lambda: section_of_lineage(path.parent.name, held))
    if {"layer_summary", "layers", "total_params"} <= held.keys():
        return _guarded(path, "JSON of structure", lambda: _of_structure(held, None))
    return _of_scan(where, path.name, held)


def _guarded(path: Path, what: str, section: Callable[[], Section]) -> Section:
    """What `section` makes; FormatError where the file does not hold what it should."""
    try:
        return section()
    except _FAULTS as problem:
        said = f"no field {problem}" if isinstance(problem, KeyError) else str(problem)
        raise FormatError(f"{printable(str(path), 300)}: is no {what}: {printable(said)}") from None


def _of_structure(structure: Any, comparison: Any) -> Section:
    return section_of_structures(str(structure["model_name"]), [(structure, comparison)])


def _of_structures(held: Mapping[str, Any]) -> Section:
    """Of the gathered results of a folder of models, with the files of each."""
    models, missing = [], []
    for result in held["results"]:
        name = str(result["name"])
        try:
            structure, comparison = read_earlier(Path(result["analysis"]))
        except (NetweightError, OSError) as problem:
            missing.append((name, str(problem)))
            continue
        if structure is None:
            missing.append((name, str(result.get("error") or f"no {STRUCTURE} in {result['analysis']}")))
        else:
            models.append((structure | {"model_name": name}, comparison if result.get("original") else None))
    return section_of_structures(str(held["models_dir"]), models, skipped=missing)


def _of_scan(where: str, title: str, held: Mapping[str, Any]) -> Section:
    """Of the JSON that scan writes, which has names and measures alone."""
    try:
        held = held["parameters"] if held.keys() == {"health", "parameters"} else held
        skipped = [(name, str(entry["skipped"])) for name, entry in held.items() if "skipped" in entry]
        measured = {name: entry for name, entry in held.items() if "skipped" not in entry}
        found = [find(name) for name in (*SCANNED, *BY_NAME) if any(name in entry for entry in measured.values())]
        fields = [Column(f"{m.name}.{c.name}", c.unit, c.doc, c.type) for m in found for c in m.columns]
        rows = [
            (name, *role_cells(parameter), *(field_of(measured[name], column.name) for column in fields))
            for name, parameter in classify_all(dict.fromkeys(measured, ())).items()
        ]
    except _FAULTS as problem:
        raise FormatError(f"{where}: is no JSON of a scan: {printable(str(problem))}") from None
    if not fields:
        raise OptionError(f"{where}: holds no measures of a scan, and is no JSON of info, structure or verify")
    columns = (Column("param", "", "the parameter's name, a part of it in brackets", "text"), *ROLE_COLUMNS, *fields)
    return section_of("scan", title, columns, rows, skipped=skipped)
