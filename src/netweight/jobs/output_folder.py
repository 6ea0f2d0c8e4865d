"""The folder that a job writes a model or an adapter into: whole, at the end; what a stopped run has done is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from netweight.errors import OutputError, printable
from netweight.jobs.inputs import Reference
from netweight.jobs.journalled import interruptible

if TYPE_CHECKING:
    from netweight.output.folder import ResultFolder

__all__ = ["output_folder", "under_way"]


class _Placing(Protocol):
    """Options that say how files are placed."""

    @property
    def sync(self) -> bool: ...
    @property
    def overwrite(self) -> bool: ...


def output_folder(
    output: Reference, holds: str, inputs: Sequence[Path], kind: str, options: _Placing, *, resume: bool | None = None
) -> ResultFolder:
    """The folder, not entered yet; raises OutputError where `output` is empty.

    `holds` is what goes into it, in words; `resume`: go on with what a stopped run has left, None for a job that keeps
    nothing of a stopped run.
    """
    from netweight.output.folder import ResultFolder

    if not os.fspath(output):
        raise OutputError(f"--output: expected the folder that the {holds} goes into, got an empty name")
    return ResultFolder(
        Path(output),
        inputs,
        kind,
        resume=bool(resume),
        keep_stage=resume is not None,
        sync=options.sync,
        replace=options.overwrite,
    )


@contextmanager
def under_way(folder: ResultFolder, output: Reference) -> Iterator[None]:
    """Enter the folder; Ctrl-C raises Interrupted, which says what is left and how to go on."""
    shown = printable(str(output), 300)
    with interruptible(lambda: f"{shown}: stopped; {folder.outcome()}; run again with --resume to go on"), folder:
        yield
