"""The result of `verify`: a verdict on each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from netweight.columns import Column
from netweight.jobs.pages import Reported
from netweight.jobs.verify.page import section_of_verified
from netweight.output.frame import Frame, Framed
from netweight.page.section import Section

__all__ = ["COLUMNS", "Verdict", "Verified"]

COLUMNS = (
    Column("param", "", "the parameter's name", "text"),
    Column("verdict", "", "same, differs, missing, or not of the recipe", "text"),
    Column("differing", "elements", "elements whose bits differ", "integer"),
    Column("reason", "", "what the digests say of the cause", "text"),
)


@dataclass(frozen=True)
class Verdict:
    """The verdict on one parameter: `verdict` is "same", "differs", "missing" (from the file) or "not of the recipe"
    (only there); `differing` counts elements whose bits differ.
    """

    name: str
    verdict: str
    differing: int = 0
    reason: str = ""


class Verified(Reported, Framed):
    """The result of `netweight.verify`: `good` where every verdict is "same"; `planned` counts all parameters of the
    recipe, also those that were not asked for; `device`: where it was computed; `notes`: what happened to devices.
    """

    def __init__(
        self,
        folder: Path,
        verdicts: Sequence[Verdict],
        planned: int,
        device: str = "cpu",
        notes: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.verdicts = tuple(verdicts)
        self.planned = planned
        self.device = device
        self.notes = tuple(notes)

    @property
    def good(self) -> bool:
        """Whether every compared parameter is what the recipe gives."""
        return all(v.verdict == "same" for v in self.verdicts)

    @cached_property
    def frame(self) -> Frame:
        """A row for each verdict."""
        return Frame(COLUMNS, [(v.name, v.verdict, v.differing, v.reason) for v in self.verdicts])

    def locations(self) -> list[Path]:
        """See Reported."""
        return [self.folder]

    def section(self) -> Section:
        """See Reported."""
        return section_of_verified(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "folder": str(self.folder),
            "good": self.good,
            "checked": len(self.verdicts),
            "parameters": self.planned,
            "device": self.device,
            "notes": list(self.notes),
            "verdicts": {
                v.name: {"verdict": v.verdict, "differing": v.differing, "reason": v.reason} for v in self.verdicts
            },
        }

    def write(self, path: str | Path) -> None:
        """Write the verdicts as JSON into the file `path`."""
        from netweight.output.result_file import write_file
        from netweight.output.table import write_json

        write_file(Path(path), lambda file: write_json(file, self.to_dict()))

    def __repr__(self) -> str:
        same = sum(v.verdict == "same" for v in self.verdicts)
        return f"<Verified {str(self.folder)!r}: {same} of {len(self.verdicts)} parameters are what the recipe gives>"
