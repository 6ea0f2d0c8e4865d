"""What `verify` found, as a page shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from netweight.columns import Column
from netweight.jobs.pages import section_of
from netweight.page.section import Bars, Section
from netweight.params.role import classify_all

__all__ = ["section_of_verified"]

_COLUMNS = (
    Column("param", "", "the parameter's name", "text"),
    Column("layer", "", "number of its block, empty outside the blocks", "integer"),
    Column("role", "", "what it is: q_proj, norm, embedding ...", "text"),
    Column("verdict", "", "same, differs, missing, or not of the recipe", "text"),
    Column("differing", "elements", "elements whose bits differ", "integer"),
    Column("reason", "", "what the digests say of the cause", "text"),
)


def section_of_verified(entry: Mapping[str, Any]) -> Section:
    """The section of what `Verified.to_dict` holds; the map has the elements that differ."""
    verdicts: Mapping[str, Mapping[str, Any]] = entry["verdicts"]
    parameters = classify_all(dict.fromkeys(verdicts, ()))
    counts = Counter(str(one["verdict"]) for one in verdicts.values())
    of = "" if entry["checked"] == entry["parameters"] else f" (of {entry['parameters']:,})"
    said = f"{counts['same']:,} of {entry['checked']:,} parameters{of} are what the recipe gives, bit for bit"
    rows = [
        (name, parameters[name].layer, parameters[name].role, one["verdict"], one["differing"], one["reason"])
        for name, one in verdicts.items()
    ]
    return section_of(
        "verify",
        str(entry["folder"]),
        _COLUMNS,
        rows,
        card=[("verdict", said), ("computed on", str(entry["device"]))],
        notes=[str(note) for note in entry["notes"]],
        findings=[
            ("critical", name, one["verdict"], str(one["reason"]))
            for name, one in verdicts.items()
            if one["verdict"] != "same"
        ],
        bars=[Bars("verdicts", list(counts), list(counts.values()))],
    )
