"""Progress of a download: a bar for each file under way and one for all, on stderr; lines where it is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from netweight.cli.progress.bar import LineProgress
from netweight.errors import printable
from netweight.views.text import human_bytes, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from netweight.jobs.download.progress import DownloadProgress, Waiting

__all__ = ["DownloadBars", "DownloadLines", "download_progress_for"]

_NAME_WIDTH = 40


class DownloadLines:
    """A line for each file that is there, and one for all every ten seconds."""

    def __init__(self) -> None:
        self._lines = _Files()
        self._sizes: dict[str, int] = {}

    def start(self, files: Sequence[Waiting]) -> None:
        """See jobs.download.progress.DownloadProgress."""
        self._sizes = {file.name: file.size for file in files}
        self._lines.start(len(files), sum(file.size for file in files), 0, sum(file.done for file in files))

    def advance(self, name: str, nbytes: int) -> None:  # noqa: ARG002 - the line is of all files
        """See jobs.download.progress.DownloadProgress."""
        self._lines.advance(0, nbytes)

    def finish(self, name: str) -> None:
        """See jobs.download.progress.DownloadProgress."""
        sys.stderr.write(f"{printable(name)}: {human_bytes(self._sizes[name])}, verified\n")
        self._lines.advance(1, 0)

    def note(self, text: str) -> None:
        """See jobs.download.progress.DownloadProgress."""
        self._lines.note(text)

    def stop(self) -> None:
        """See jobs.download.progress.DownloadProgress."""
        self._lines.stop()


class _Files(LineProgress):
    """The line speaks of files."""

    def _line(self) -> str:
        return super()._line().replace(" tensors", " files", 1)


class DownloadBars:
    """Bars on a terminal: of the files that bytes are coming of, and of all together."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            Speed(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True, markup=False, highlight=False),
            transient=True,
        )
        self._files: dict[str, Waiting] = {}
        self._tasks: dict[str, Any] = {}
        self._came: dict[str, int] = {}
        self._all: Any = None
        self._finished = 0

    def start(self, files: Sequence[Waiting]) -> None:
        """See jobs.download.progress.DownloadProgress."""
        self._files = {file.name: file for file in files}
        self._came = {file.name: file.done for file in files}
        self._bars.start()
        self._all = self._bars.add_task(
            self._title(), total=sum(file.size for file in files), completed=sum(self._came.values())
        )

    def advance(self, name: str, nbytes: int) -> None:
        """See jobs.download.progress.DownloadProgress."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(
                printable(name, _NAME_WIDTH), total=self._files[name].size, completed=self._came[name]
            )
        self._came[name] += nbytes
        self._bars.update(self._tasks[name], completed=self._came[name])
        self._bars.update(self._all, completed=sum(self._came.values()))

    def finish(self, name: str) -> None:
        """See jobs.download.progress.DownloadProgress."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        self._finished += 1
        self._bars.update(self._all, description=self._title())

    def note(self, text: str) -> None:
        """See jobs.download.progress.DownloadProgress."""
        self._bars.console.print(f"note: {one_line(text)}", soft_wrap=True)

    def stop(self) -> None:
        """See jobs.download.progress.DownloadProgress."""
        self._bars.stop()

    def _title(self) -> str:
        return f"{self._finished} of {len(self._files)} files"


def download_progress_for(output_format: str) -> DownloadProgress:
    """The progress for `--format`: none where quiet, else by whether stderr is a terminal."""
    from netweight.jobs.download.progress import Silent

    if output_format == "quiet":
        return Silent()
    return DownloadBars() if sys.stderr.isatty() else DownloadLines()
