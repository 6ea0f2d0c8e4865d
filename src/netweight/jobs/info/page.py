"""What is in a checkpoint, as a page shows it: every tensor, and what its headers and config say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netweight.columns import Column
from netweight.jobs.pages import section_of
from netweight.output.table import Row
from netweight.page.section import Bars, Section, Table

__all__ = ["COLUMNS", "section_of_info"]

COLUMNS = (
    Column("param", "", "the tensor's name", "text"),
    Column("layer", "", "number of its block, empty outside the blocks", "integer"),
    Column("role", "", "what it is: q_proj, norm, embedding, buffer ...", "text"),
    Column("shape", "", "its shape", "integers"),
    Column("stored", "", "how it is stored: a dtype, or codes of a quantisation", "text"),
    Column("elements", "elements", "elements of it", "integer"),
    Column("bytes", "bytes", "in files, scales and all", "integer"),
    Column("bits_per_weight", "bits", "of its files for an element", "number"),
    Column("same_as", "", "the tensor whose values it shares, which counts once", "text"),
)

_SAID = (
    "format", "family", "tensors", "parameters", "buffers", "bytes", "layers", "heads", "kv_heads", "hidden_size",
    "intermediate_size", "vocabulary", "head_is", "revision", "config_problem",
)  # fmt: skip


def section_of_info(entry: Mapping[str, Any], rows: Sequence[Row] = ()) -> Section:
    """The section of what `Info.to_dict` holds; `rows` under COLUMNS where the tensors are known."""
    roles = [row for row in entry["roles"] if row["role"] != "buffer"]
    card = [(key.replace("_", " "), _said(entry[key])) for key in _SAID if entry[key] not in (None, "")]
    card += [(f"blocks of {name}", _said(count)) for name, count in entry["stacks"].items() if name]
    if entry["adapter"] is not None:
        card += [(f"adapter: {key.replace('_', ' ')}", _said(value)) for key, value in entry["adapter"].items()]
    tables = [_table("stored", entry["dtypes"]), _table("roles", entry["roles"]), _table("files", entry["files"])]
    tables += [_table("other", entry["other"])] if entry["other"] else []
    if entry["metadata"]:
        tables.append(Table("metadata", ("key", "value"), [(k, str(v)) for k, v in entry["metadata"].items()]))
    return section_of(
        "info",
        str(entry["ref"]),
        COLUMNS,
        rows,
        card=card,
        notes=[*entry["notes"], *(f"the pickle names what may not be harmless: {name}" for name in entry["outside"])],
        skipped=[(str(one["name"]), str(one["reason"])) for one in entry["skipped"]],
        bars=[Bars("parameters", [row["role"] for row in roles], [row["parameters"] for row in roles])],
        tables=tables,
    )


def _table(title: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    headings = list(entries[0]) if entries else []
    rows = [[_said(entry[key]) for key in headings] for entry in entries]
    return Table(title, [heading.replace("_", " ") for heading in headings], rows)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return (
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else "" if value is None else str(value)
    )
