"""`report`: results that are there already, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from netweight.errors import OptionError
from netweight.jobs.inputs import Reference, references
from netweight.jobs.pages import check_report, write_report
from netweight.jobs.report.records import of_folder, of_json
from netweight.jobs.report.tables import of_table
from netweight.page.section import Section

__all__ = ["report"]


def report(results: Reference | Sequence[Reference], output: Reference) -> None:
    """Write one page of `results` to `output`: Parquet files of scan, compare and delta, JSON of scan, info, structure
    and verify, folders of delta and structure, and merged models.

    Raises OptionError for what is no such result or no .html, FormatError for tables that cannot be read, OutputError
    and JobError where the page cannot be written.
    """
    named = [Path(result) for result in references(results)]
    if not named:
        raise OptionError("report: expected one or more results, got none")
    check_report(output, option="--output")
    write_report([_section(path) for path in named], output, named)


def _section(path: Path) -> Section:
    if path.is_dir():
        found = of_folder(path)
        return of_table(path) if found is None else found
    return of_json(path) if path.is_file() and path.suffix.lower() == ".json" else of_table(path)
