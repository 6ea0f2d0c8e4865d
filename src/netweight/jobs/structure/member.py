"""One entry of a folder of models: analysed and written, kept from an earlier run, or only gathered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netweight.errors import NetweightError, printable
from netweight.jobs.structure.files import has_analysis, read_earlier, write_model
from netweight.jobs.structure.folder import ANALYSIS, ModelEntry
from netweight.jobs.structure.job import Base, ModelStructure, describe
from netweight.jobs.structure.model import file_stamps
from netweight.jobs.structure.rows import ModelRow, summary_row
from netweight.output.manifest import MANIFEST
from netweight.params.opening import open_whole
from netweight.version import __version__

__all__ = ["Member", "ModelResult"]


@dataclass(frozen=True)
class ModelResult:
    """The result of one entry: `status` is "analysed", "kept" (an earlier result still fits), "failed" or "skipped";
    `row` are its counts, None for the last two; `error` says why. `analysis` is where its own files are, and
    `elsewhere` why they are not in its own folder.
    """

    name: str
    path: str
    kind: str
    status: str
    analysis: str
    row: ModelRow | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    elsewhere: str | None = None


@dataclass(frozen=True)
class Member:
    """An entry and how it is analysed. `gathered` is the folder of the gathered results: the entry's own files go
    below it where its own folder cannot take them.
    """

    model: ModelEntry
    base: Base | None
    gathered: Path | None
    deep: bool = False
    count_tied_twice: bool = False

    def gather(self) -> ModelResult:
        """The result of an earlier run, also where the weights are gone since."""
        model = self.model
        places = [candidate for candidate in self._places() if has_analysis(candidate)]
        # netweight's own before those of another tool, whose files it leaves where they are
        folder = min(places, key=lambda place: not (place / MANIFEST).is_file(), default=None)
        if folder is None:
            if model.kind == "none":
                return self.unanalysed()
            return self._result("skipped", model.analysis, error="not analysed yet: nothing to gather")
        try:
            structure, comparison = read_earlier(folder)
            row = summary_row(structure or {}, comparison, str(folder))
        except (NetweightError, OSError) as error:
            return self._result("failed", folder, error=_line(error))
        return self._result("kept", folder, kind=_recorded_kind(structure, model.kind), row=row)

    def analyse(self, *, again: bool) -> ModelResult:
        """The model's structure, written where its files go; an earlier one that fits is kept, unless `again`."""
        model, kind = self.model, self.model.kind
        try:
            with open_whole(model.path) as checkpoint:
                if not again:
                    now = {
                        "netweight": __version__,
                        "count_tied_twice": self.count_tied_twice,
                        "files": file_stamps(checkpoint),
                    }
                    for folder in self._places():
                        if (earlier := self._earlier(folder, now)) is not None:
                            return earlier
                described = describe(
                    checkpoint, model.name, self.base, deep=self.deep, count_tied_twice=self.count_tied_twice, workers=1
                )
            kind = described.structure["model_type"]
            row = summary_row(described.structure, described.comparison, str(model.analysis))
        except (NetweightError, OSError) as error:
            return self._result("failed", model.analysis, kind=kind, error=_line(error))
        against_base = described.comparison["notes"] if described.comparison else ()
        notes: tuple[str, ...] = (*described.structure["notes"], *against_base)
        folder, more, elsewhere = self._write(described)
        return self._result("analysed", folder, kind=kind, row=row, notes=(*notes, *more), elsewhere=elsewhere)

    def unanalysed(self) -> ModelResult:
        """The result of an entry that is no model, or cannot be opened."""
        model = self.model
        return self._result(
            "failed" if model.broken else "skipped", model.analysis, error=model.problem or "no model files"
        )

    def _places(self) -> list[Path]:
        """Where the model's own files may be."""
        places = [self.model.analysis]
        if self.gathered is not None:
            places.append(self.gathered / self.model.name / ANALYSIS)
        return places

    def _write(self, described: ModelStructure) -> tuple[Path, tuple[str, ...], str | None]:
        """(where, notes, why not in the model's own folder)."""
        why = ""
        for folder in self._places():
            try:
                notes = write_model(folder, described.structure, described.comparison)
            except (NetweightError, OSError) as error:
                why = why or _line(error)
                continue
            if not why:
                return folder, notes, None
            elsewhere = f"its own files are in {folder}: {why.partition('; choose another output folder')[0]}"
            return folder, (*notes, elsewhere), elsewhere
        elsewhere = f"its own files were not written: {why}"
        return self.model.analysis, (elsewhere,), elsewhere

    def _earlier(self, folder: Path, now: dict[str, Any]) -> ModelResult | None:
        """The earlier result in `folder`, where it is of these very files, this base and these options."""
        try:
            structure, comparison = read_earlier(folder)
        except (NetweightError, OSError):
            return None  # it is made anew
        source = structure.get("source") if structure else None
        if structure is None or not isinstance(source, dict):
            return None
        if any(source.get(key) != value for key, value in now.items()):
            return None
        if self.deep and source.get("deep") is not True:
            return None
        if self.base is not None:
            against = comparison.get("source") if comparison else None
            if not isinstance(against, dict) or against.get("base_files") != self.base.files:
                return None
        try:
            row = summary_row(structure, comparison if self.base is not None else None, str(folder))
        except NetweightError:
            return None  # it is made anew
        recorded = [*structure.get("notes", ()), *(comparison.get("notes", ()) if self.base and comparison else ())]
        notes = tuple(note for note in recorded if isinstance(note, str))
        return self._result("kept", folder, kind=_recorded_kind(structure, self.model.kind), row=row, notes=notes)

    def _result(self, status: str, folder: Path, *, kind: str | None = None, **more: Any) -> ModelResult:
        model = self.model
        return ModelResult(model.name, str(model.path), kind or model.kind, status, str(folder), **more)


def _recorded_kind(structure: dict[str, Any] | None, kind: str) -> str:
    recorded = structure.get("model_type") if structure else None
    return recorded if recorded in {"standard", "bin", "slicegpt"} else kind


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, NetweightError):
        where = f"{printable(str(error.filename))}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return " ".join(str(error).split())
